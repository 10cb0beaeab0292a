"""The settings of an adapter, and what follows from them for each module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dovetail.io.adapters.patterns import PatternError, PatternTable
from dovetail.io.checkpoint import FileFingerprint
from dovetail.io.errors import UnsupportedError

CONFIG_NAME: Final = "adapter_config.json"
"""File name of the configuration of an adapter."""

MERGE_FIRST: Final = "merge the adapter into its model first, with merge_and_unload() of peft"
"""The advice that errors give about an adapter that cannot be applied here."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The settings of an adapter that decide its effect."""

    path: Path
    """Path of the configuration file."""
    fingerprint: FileFingerprint
    """Fingerprint of the file; its hash is that of the whole file."""
    kind: str
    """Kind of the adapter: the value of ``peft_type``."""
    base_name: str
    """The model on which the adapter was trained, as its author named it; may be empty."""
    task: str
    """The task for which the adapter was trained; may be empty."""
    saved: frozenset[str]
    """Names of the modules that were trained whole, not by an adapter."""
    ranks: frozenset[int]
    """The ranks that modules may have."""
    rank: int
    """The rank of modules that no pattern matches."""
    rank_patterns: PatternTable
    """Finds the pattern that matches a module, among those of ranks."""
    pattern_ranks: Mapping[str, int]
    """The rank of modules that a pattern matches, by the pattern; of AdaLoRA by the module's name."""
    alpha: float
    """Numerator of the scale, for modules that no pattern matches."""
    alphas: Mapping[str, float]
    """Numerator of the scale, for modules that a pattern matches, by the pattern."""
    patterns: PatternTable
    """Finds the pattern that matches a module."""
    root: bool
    """Whether the scale is divided by the square root of the rank, not by the rank (rsLoRA)."""
    dora: bool
    """Whether modules have magnitude vectors (DoRA)."""
    fan_in_fan_out: bool
    """Whether square weights are assumed to be stored transposed, where nothing else tells."""
    tokens: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None
    """Trained rows of the only embedding or, as a mapping, of each embedding by name; None without trained rows."""
    parameters: tuple[str, ...]
    """Names of parameters, or their last components, to which LoRA is applied although they are no modules' weights."""
    version: str
    """The version of peft that wrote the configuration; empty if it does not say, as before 0.18."""
    unsloth: bool
    """Whether Unsloth trained the adapter."""

    def rank_of(self, module: str) -> int:
        """Give the rank that the configuration says a module has.

        Raises
        ------
        UnsupportedError
            Matching the patterns takes too long.

        """
        if self.kind == "ADALORA":
            return self.pattern_ranks.get(module, self.rank)
        try:
            key = self.rank_patterns.find(module)
        except PatternError as error:
            raise patterns_error(self.path, "rank_pattern", error) from None
        return self.rank if key is None else self.pattern_ranks[key]

    def adaptive_scale(self, rank: int) -> float:
        """Compute the factor of the product of a module's matrices in AdaLoRA, where patterns of alpha do not count.

        peft divides by the rank with which training began, whatever rank is left.
        """
        return (self.alpha if self.alpha > 0 else rank) / (self.rank + 1e-5)

    def scale(self, module: str, rank: int) -> float:
        """Compute the factor of the product of a module's matrices.

        Raises
        ------
        UnsupportedError
            Matching the patterns takes too long.

        """
        try:
            key = self.patterns.find(module)
        except PatternError as error:
            raise patterns_error(self.path, "alpha_pattern", error) from None
        alpha = self.alpha if key is None else self.alphas[key]
        return alpha / math.sqrt(rank) if self.root else alpha / rank


def patterns_error(path: Path, key: str, error: PatternError) -> UnsupportedError:
    """Make the error for a setting with patterns of module names that cannot be matched."""
    return UnsupportedError(
        f"a key of {key} in {path} {error}", "module names or simple regular expressions", MERGE_FIRST
    )

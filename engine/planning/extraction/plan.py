"""Planning an extraction: which tensors are factored, and which are kept whole if they changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dovetail.engine.planning.extraction.experts import whole_packs
from dovetail.engine.planning.extraction.modules import Kind, is_router, is_shared, kind_of, matches, module_of
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.pairing import TensorPair, pair_up
from dovetail.engine.planning.identity import input_identity
from dovetail.io.adapters.memory_names import memory_name
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.formats.config import config_of

VERSION = 2
"""Changes whenever the same models and options give other bits than before."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """An extraction, decided as far as the headers allow."""

    options: ExtractionOptions
    """What was asked for."""
    tuned: Checkpoint
    """The fine-tuned model."""
    base: Checkpoint
    """The base model."""
    names: tuple[str, str]
    """Both as the user named them."""
    config: Mapping[str, Any] | None
    """The base model's config.json."""
    matrices: tuple[TensorPair, ...]
    """Tensors that are factored, unless they did not change."""
    others: tuple[TensorPair, ...]
    """Tensors that are kept whole if they changed."""
    by_name: frozenset[str]
    """Of `others`, those that stand in the adapter for themselves alone rather than for their module: loading it
    replaces the base model's tensor."""
    tied: str | None
    """The base model's embedding, if that is its head too."""
    copies: tuple[tuple[TensorInfo, TensorInfo], ...]
    """Stored heads of the fine-tuned model that must be copies of its embedding: see `Counterparts.copies`."""
    left_out: tuple[str, ...]
    """Tensors that the options leave out."""
    notes: tuple[str, ...]
    """What a person should know."""

    @property
    def hash(self) -> str:
        """Changes whenever the adapter would change."""
        inputs = input_identity((self.tuned, self.base))
        content = {"version": VERSION, "options": asdict(self.options), "names": self.names, "inputs": inputs}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan_extraction(
    tuned: Checkpoint, base: Checkpoint, names: tuple[str, str], options: ExtractionOptions
) -> Extraction:
    """Decide which tensors are compared, and what each may become in the adapter.

    Parameters
    ----------
    tuned, base
        The two models.
    names
        What the user calls them.
    options
        What is asked for.

    Raises
    ------
    TensorMismatchError
        The fine-tuned model has tensors, or shapes, that no adapter on the base model can bring.

    """
    config, found = config_of(base), pair_up(tuned, base, names, options)
    matrices: list[TensorPair] = []
    others: list[TensorPair] = []
    by_name: set[str] = set()
    notes: list[str] = [*tuned.notes, *base.notes]
    contents = module_contents(base)
    for name, new in found.tuned.items():
        old = base.tensors[name]
        loaded, mergeable = memory_name(name, config), new.dtype.mergeable and old.dtype.mergeable
        shared = is_shared(name, config)
        kind = kind_of(loaded, old.shape, config) if mergeable and not shared else Kind.WHOLE
        same, tied = new.shape == old.shape, name == found.tied
        if not same:
            notes.append(_resized(name, new, old))
        alone = (
            shared or is_router(name) or loaded != name or not contents.get(module_of(name), {""}) <= {"weight", "bias"}
        )
        if not same or tied or name.endswith(".bias") or alone:
            by_name.add(name)
        pair = TensorPair(name, kind, new, old if same else None, loaded)
        factored = kind is not Kind.WHOLE and same and not tied and not matches(options.modules_to_save, name)
        (matrices if factored else others).append(pair)
    if options.energy is None:
        packs = whole_packs(base.tensors, {pair.name for pair in matrices}, config)
        matrices = [replace(pair, packed=packs.get(pair.name)) for pair in matrices]
    if found.missing:
        notes.append(f"{names[0]} lacks {len(found.missing)} tensors, such as {found.missing[0]}: taken as unchanged.")
    return Extraction(
        options=options,
        tuned=tuned,
        base=base,
        names=names,
        config=config,
        matrices=tuple(matrices),
        others=tuple(others),
        by_name=frozenset(by_name),
        tied=found.tied,
        copies=found.copies,
        left_out=tuple(name for name in base.tensors if not options.wants(name)),
        notes=tuple(notes),
    )


def _resized(name: str, new: TensorInfo, old: TensorInfo) -> str:
    return (
        f"{name} has {new.shape[0]} rows, and {old.shape[0]} in the base model: it is kept whole. Call "
        f"resize_token_embeddings({new.shape[0]}) on the base model before peft loads the adapter."
    )


def module_contents(checkpoint: Checkpoint) -> dict[str, set[str]]:
    """Give, for the name of every module, the names that stand below it."""
    found: dict[str, set[str]] = {}
    for name in checkpoint.tensors:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            found.setdefault(".".join(parts[:cut]), set()).add(".".join(parts[cut:]))
    return found

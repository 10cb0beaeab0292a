"""One of two merges that are shown side by side, and what both have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import VerificationError
from dovetail.engine.output.manifest import has_task_vectors
from dovetail.engine.output.tensor_table import labels
from dovetail.engine.text import short_name

if TYPE_CHECKING:
    from dovetail.engine.output.document import Manifest

_HOW_STORED = ("chunk_elements", "chunk_period", "chunk_edges")
"""Keys of a tensor's entry on which checksums of chunks depend beside the values."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two merges."""

    label: str
    """What the page calls it."""
    manifest: Manifest
    """Its manifest."""
    table: np.recarray[Any, Any]
    """Records of all of its tensors."""
    names: Sequence[str]
    """Names of its models."""

    @property
    def totals(self) -> dict[str, Any]:
        """Statistics of the whole merge."""
        found: dict[str, Any] = self.manifest["totals"]
        return found

    @property
    def has_changes(self) -> bool:
        """Whether it has figures about changes of a base model."""
        return has_task_vectors(self.totals)


def side(label: str, manifest: Manifest) -> Side:
    """Make a side of a manifest."""
    return Side(label, manifest, manifest.table(), labels([str(name) for name in manifest["models"]]))


@dataclass(frozen=True, slots=True)
class Shared:
    """The tensors that two merges have in common: the same names and shapes, in the order of the first."""

    names: Sequence[str]
    """Their names."""
    first: np.recarray[Any, Any]
    """Their records in the first merge."""
    second: np.recarray[Any, Any]
    """And in the second."""
    same: NDArray[np.int8]
    """Of each, 1 if all bytes are the same, 0 if some are not, -1 if the manifests cannot tell."""
    only: tuple[Sequence[str], Sequence[str]]
    """Names of the tensors that only the first has, and only the second."""
    reshaped: Sequence[str]
    """Names of the tensors that are in both in other shapes."""
    models: Sequence[tuple[int, int]]
    """Place in the first and in the second merge of every model that both have."""


def find_shared(first: Side, second: Side) -> Shared:
    """Find what two merges have in common.

    Raises
    ------
    VerificationError
        They have no tensor in common.

    """
    rows = [{name: index for index, name in enumerate(each.table["name"])} for each in (first, second)]
    shapes = [each.table["shape"] for each in (first, second)]
    both = [name for name in rows[0] if name in rows[1]]
    alike = [name for name in both if shapes[0][rows[0][name]] == shapes[1][rows[1][name]]]
    if not alike:
        raise VerificationError(
            f"{first.label} and {second.label} have no tensor of one name and shape",
            "two outputs of merges of models of the same architecture",
            "name others, or have a report of each",
        )
    entries = [each.manifest["tensors"] for each in (first, second)]
    found = [
        each.table[[at[name] for name in alike]].view(np.recarray)
        for each, at in zip((first, second), rows, strict=True)
    ]
    return Shared(
        alike,
        found[0],
        found[1],
        np.array([_same(entries[0][name], entries[1][name]) for name in alike], np.int8),
        ([name for name in rows[0] if name not in rows[1]], [name for name in rows[1] if name not in rows[0]]),
        [name for name in both if shapes[0][rows[0][name]] != shapes[1][rows[1][name]]],
        _pair_models(first, second),
    )


def _same(first: Any, second: Any) -> int:
    """Tell whether two tensors hold the same bytes, as far as their entries in the manifests can tell."""
    if first["dtype"] != second["dtype"]:
        return 0
    if any(first.get(key) != second.get(key) for key in _HOW_STORED):
        return -1
    return int(first["checksums"] == second["checksums"])


def _pair_models(first: Side, second: Side) -> list[tuple[int, int]]:
    """Pair models by their whole names, and those that are left by their last parts, where these are of one model."""
    names, others = ([str(name) for name in each.manifest["models"]] for each in (first, second))
    pairs: dict[int, int] = {}
    for place, name in enumerate(names):
        free = [at for at, other in enumerate(others) if other == name and at not in pairs.values()]
        if free:
            pairs[place] = free[0]
    short, short_others = ([short_name(name) for name in each] for each in (names, others))
    for place, name in enumerate(short):
        if place not in pairs and short.count(name) == short_others.count(name) == 1:
            at = short_others.index(name)
            if at not in pairs.values():
                pairs[place] = at
    return sorted(pairs.items())

"""What an analysis of models says: of every model, of every pair, of every layer, kind and tensor, and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

from dovetail.engine.actions.analysis_figures import Figures, figures
from dovetail.engine.actions.analysis_table import Records, pairs_of, total
from dovetail.engine.facts import cut, facts_html, facts_text, listed
from dovetail.engine.methods.measured import SHARES
from dovetail.engine.output.places import Places
from dovetail.engine.run.budget import Budget
from dovetail.engine.text import counted, format_size, short_name

FORMAT: Final = "dovetail analysis"
VERSION: Final = 1

Name = TypeVar("Name", str, tuple[str, str])

_STRONGEST: Final = tuple(f"{share:.0%}" for share in SHARES)


@dataclass(frozen=True, slots=True)
class Caution:
    """What is to be looked at before a merge, and what to do."""

    kind: str
    """What it is about, for programs: see docs/analyze.md."""
    text: str
    """It in whole sentences."""


@dataclass(frozen=True, slots=True)
class AnalysedTensor:
    """A tensor that is compared with the base model's."""

    name: str
    """Its name in the base model."""
    dtype: str
    """Dtype of the base model's, by the name that recipes use."""
    shape: tuple[int, ...]
    """Its shape."""
    layer: str
    """Its layer; "outside" for none."""
    kind: str
    """What it is within its layer, with an asterisk for the number of an expert."""
    models: tuple[int, ...]
    """Which models have it."""
    same: tuple[bool, ...] | None = None
    """Of a tensor that is not merged, such as one of integers: whether each of `models` has the base model's bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What an analysis found."""

    base: str
    """The base model."""
    models: tuple[str, ...]
    """The models, in the recipe's order."""
    block: tuple[int, int]
    """n and m of the n:m pruning that is tried."""
    tensors: tuple[AnalysedTensor, ...]
    """Every tensor that a model has in common with the base model, in the base model's order."""
    records: Records = field(repr=False)
    """The sums of every tensor, in the same order; see `dovetail.engine.actions.analysis_table`."""
    cautions: tuple[Caution, ...]
    """What is to be looked at."""
    notes: tuple[str, ...]
    """What planning a merge of these models says: tensors that some of them lack, and the like."""
    budget: Budget
    """The memory and the workers of the analysis."""
    read_bytes: int
    """Bytes that were read."""
    seconds: float
    """Time that it took, in seconds."""

    @property
    def total(self) -> Figures:
        """Figures of all tensors together."""
        return figures(total(self.records))

    @property
    def layers(self) -> dict[str, Figures]:
        """Figures of every layer, in the order of the layers, those outside last."""
        found = self._grouped([each.layer for each in self.tensors])
        return {name: found[name] for name in Places([each.name for each in self.tensors]).layers if name in found}

    @property
    def kinds(self) -> dict[str, Figures]:
        """Figures of every kind of tensor, in the base model's order."""
        return self._grouped([each.kind for each in self.tensors])

    @property
    def cells(self) -> dict[tuple[str, str], Figures]:
        """Figures of every kind of tensor in every layer."""
        return self._grouped([(each.layer, each.kind) for each in self.tensors])

    def of_tensor(self, name: str) -> Figures:
        """Give the figures of one tensor; KeyError if there is none of the name."""
        for place, each in enumerate(self.tensors):
            if each.name == name:
                return figures(self.records[place])
        raise KeyError(name)

    def _grouped(self, names: Sequence[Name]) -> dict[Name, Figures]:
        places: dict[Name, list[int]] = {}
        for place, name in enumerate(names):
            if self.tensors[place].same is None:
                places.setdefault(name, []).append(place)
        return {name: figures(total(self.records[chosen])) for name, chosen in places.items()}

    def to_json(self, *, tensors: bool = True) -> dict[str, Any]:
        """Give all of it as a JSON object, from which ``dovetail report`` makes a page.

        Parameters
        ----------
        tensors
            Whether every tensor is in it, and every kind in every layer.

        """
        cells = self.cells.items() if tensors else ()
        return {
            "format": FORMAT,
            "version": VERSION,
            "base": self.base,
            "models": list(self.models),
            "pairs": [list(pair) for pair in pairs_of(len(self.models))],
            "n": self.block[0],
            "m": self.block[1],
            "strongest": list(_STRONGEST),
            "cautions": [asdict(each) for each in self.cautions],
            "notes": list(self.notes),
            "total": self.total.to_json(),
            "layers": {name: each.to_json() for name, each in self.layers.items()},
            "kinds": {name: each.to_json() for name, each in self.kinds.items()},
            "tensor_count": len(self.tensors),
            "cells": [{"layer": at, "kind": kind, **each.to_json()} for (at, kind), each in cells],
            "tensors": list(self._tensors_json()) if tensors else [],
            "read_bytes": self.read_bytes,
            "seconds": self.seconds,
            "workers": self.budget.workers,
            "projected_bytes": self.budget.projected_bytes,
            "allowed_bytes": self.budget.allowed_bytes,
        }

    def _tensors_json(self) -> Iterator[dict[str, Any]]:
        for each, record in zip(self.tensors, self.records, strict=True):
            named = asdict(each)
            named["of"] = named.pop("models")
            yield named | (figures(record).to_json() if each.same is None else {})

    def _facts(self) -> dict[str, str]:
        whole = self.total
        pairs = [each.cosine for each in whole.pairs if math.isfinite(each.cosine)]
        return {
            "base model": cut(short_name(self.base)),
            "models": listed([short_name(name) for name in self.models]),
            "tensors": counted(len(self.tensors), "tensor"),
            "relative norms": ", ".join(f"{each.relative_norm:.3g}" for each in whole.models[:6]),
            "cosines": f"{min(pairs):.3f} to {max(pairs):.3f}" if pairs else "none",
            "read": f"{format_size(self.read_bytes)} in {self.seconds:.1f} s",
            "to look at": "; ".join(cut(each.text) for each in self.cautions) or "nothing",
        }

    def __repr__(self) -> str:
        return facts_text("Analysis", self._facts())

    def _repr_html_(self) -> str:
        """Show it as a table in notebooks."""
        return facts_html("Analysis", self._facts())

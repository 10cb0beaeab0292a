"""How much of each model takes part in a merge: a model that gives little of itself is of another kind or size.

Elements are counted, not tensors: two sizes of one family share many small norms. Embeddings and heads do not count:
two architectures may share nothing but a vocabulary, which is most of many a small model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from dovetail.engine.recipe.model_ref import ModelRef

LEAST_SHARE: Final = 0.5
"""Least share of its elements that a model gives to a merge if it is of the others' architecture and size."""

Shape = tuple[int, ...]


@dataclass(slots=True)
class Count:
    """Elements of one model, or of several alike."""

    all: int = 0
    """All elements."""
    body: int = 0
    """Those of tensors that are no embeddings or heads."""

    def add(self, shape: Shape, *, vocabulary: bool) -> None:
        """Count a tensor."""
        elements = prod(shape)
        self.all += elements
        self.body += 0 if vocabulary else elements


@dataclass(slots=True)
class Shares:
    """Counts the elements of models that are merged, and those that are left out."""

    _merged: dict[tuple[ModelRef, ...], Count] = field(default_factory=dict)
    _left_out: dict[ModelRef, Count] = field(default_factory=dict)

    def counter(self, refs: tuple[ModelRef, ...]) -> Count:
        """Give what counts the tensors that are merged from all of some models."""
        return self._merged.setdefault(refs, Count())

    def merged(self, refs: tuple[ModelRef, ...], shape: Shape, *, vocabulary: bool) -> None:
        """Count a tensor that is merged from all of some models."""
        self.counter(refs).add(shape, vocabulary=vocabulary)

    def left_out(self, ref: ModelRef, shape: Shape, *, vocabulary: bool) -> None:
        """Count a tensor of a model that is merged without it."""
        self._left_out.setdefault(ref, Count()).add(shape, vocabulary=vocabulary)

    def least(self) -> dict[ModelRef, float]:
        """Give the share of its elements that every model gives of which something is left out.

        Elements of embeddings and heads count only for a model that has nothing else.
        """
        found: dict[ModelRef, float] = {}
        for ref, left in self._left_out.items():
            counts = [count for refs, count in self._merged.items() for each in refs if each == ref]
            total, body = sum(count.all for count in counts), sum(count.body for count in counts)
            found[ref] = _share(body, left.body) if body + left.body else _share(total, left.all)
        return found


def _share(merged: int, left_out: int) -> float:
    """Divide what is merged by all there is; 1 where nothing is left out."""
    return merged / (merged + left_out) if left_out else 1.0


def elements_of(catalogue: Mapping[str, Shape]) -> int:
    """Count the elements of a checkpoint."""
    return sum(map(prod, catalogue.values()))

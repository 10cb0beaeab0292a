"""Tensors that some checkpoints lack, or have in other shapes: how they are merged, and what the user is warned of.

The output has the tensors of the reference (the base model, else the first model) in its shapes, and its
configuration. So

- a tensor that a model lacks, or has in another shape, is merged from the other models alone;
- an embedding with more rows than the reference's is cut to them, one with fewer gets the missing rows from the
  reference, which says that the model changed nothing there;
- where too few models are left for the method, the reference's tensor is taken as it is;
- tensors that the reference lacks are left out.

Each of these is a warning, and an error if so asked for (``--strict``). A model that gives less than half of its
elements is an error, and a warning if so asked for (``--allow-partial``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Final, Literal

from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.otherwise import find_otherwise
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.shares import LEAST_SHARE, Shares, elements_of
from dovetail.engine.text import counted, percent
from dovetail.io.errors import TensorMismatchError

Shape = tuple[int, ...]
Kind = Literal["missing", "shape", "cut", "filled", "unused"]

_VOCABULARY = re.compile(
    r"(?:^|\.)(?:[a-z0-9_]*emb[a-z0-9_]*|wte|wpe|shared|lm_head|output|output_layer|predictions)\.", re.IGNORECASE
)
"""Names of tensors whose rows stand for tokens or positions."""

_TEXTS: Final[Mapping[Kind, str]] = {
    "missing": "{of_reference}: missing in {ref}, and merged without it",
    "shape": "{of_ref}: of another shape than in {reference}, and merged without it",
    "cut": "{of_ref}: cut to the rows of {reference}",
    "filled": "{of_ref}: fewer rows than in {reference}, whose rows stand in for them",
    "unused": "{of_ref}: not in the output, as {reference} lacks them",
}
_ACTION = "merge checkpoints of one architecture and vocabulary, or merge without --strict"


def is_vocabulary(name: str) -> bool:
    """Whether the rows of a tensor outside the layers stand for tokens or positions."""
    return _VOCABULARY.search(name) is not None


def rows_differ(shape: Shape, found: Shape) -> bool:
    """Whether two shapes differ in nothing but the number of rows."""
    return bool(shape) and len(shape) == len(found) and shape[1:] == found[1:] and shape[0] != found[0]


class Gaps:
    """Collects the tensors that are missing or have other shapes in some checkpoints, for warnings.

    Parameters
    ----------
    catalogues
        Every checkpoint's tensors.
    strict
        Whether the first is an error.
    allow_partial
        Whether a model may give less than half of its elements.

    """

    def __init__(
        self, catalogues: Mapping[ModelRef, Mapping[str, Shape]], *, strict: bool = False, allow_partial: bool = False
    ) -> None:
        self.catalogues, self.strict, self.allow_partial = catalogues, strict, allow_partial
        self.shares = Shares()
        self._found: dict[tuple[Kind, ModelRef, ModelRef], dict[str, Shape]] = {}
        self._copied: dict[str, None] = {}
        self._scaled: dict[str, None] = {}

    def missing(self, ref: ModelRef, reference: ModelRef, name: str, shape: Shape) -> None:
        """Note that a model lacks a tensor.

        Raises
        ------
        TensorMismatchError
            The merge is strict.

        """
        if self.strict:
            raise TensorMismatchError(
                f"tensor {shown(name)} is missing in checkpoint {ref}",
                f"shape {list(shape)}, as in {reference}",
                _ACTION,
            )
        self._note("missing", ref, reference, name, shape)

    def unlike(self, kind: Kind, ref: ModelRef, reference: ModelRef, name: str, shape: Shape, found: Shape) -> None:
        """Note that a model has a tensor in another shape; raises as `missing` does."""
        if self.strict:
            raise TensorMismatchError(
                f"tensor {shown(name)} of checkpoint {ref} has shape {list(found)}",
                f"{list(shape)}, as in {reference}",
                _ACTION,
            )
        self._note(kind, ref, reference, name, found)
        if kind == "shape":
            self.shares.left_out(ref, found, vocabulary=_is_loose_vocabulary(name))

    def unused(self, ref: ModelRef, names: Iterable[str], reference: ModelRef | None = None) -> None:
        """Note tensors of a checkpoint that are not in the output; raises as `missing` does.

        Parameters
        ----------
        ref
            The checkpoint.
        names
            The tensors.
        reference
            The checkpoint that decides the output's tensors; None for the first one.

        """
        names = list(names)
        if names and self.strict:
            raise TensorMismatchError(
                f"tensor {shown(names[0])} of checkpoint {ref} is missing in the others",
                "the same tensors in all",
                _ACTION,
            )
        for name in names:
            shape = self.catalogues[ref][name]
            self._note("unused", ref, reference or next(iter(self.catalogues)), name, shape)
            self.shares.left_out(ref, shape, vocabulary=_is_loose_vocabulary(name))

    def copied(self, name: str) -> None:
        """Note that too few models have a tensor for the method."""
        self._copied[name] = None

    def scaled(self, name: str) -> None:
        """Note that the weights of the models that have a tensor stand in for those of the models that lack it."""
        self._scaled[name] = None

    def refs(self) -> set[ModelRef]:
        """Give the models without which tensors were merged."""
        return {ref for kind, ref, _ in self._found if kind in ("missing", "shape")}

    def check_shares(self) -> None:
        """Refuse a model that gives less than half of its elements or stores some otherwise, unless that is asked for.

        Raises
        ------
        TensorMismatchError
            There is one: it has another architecture, size or way of storing its tensors.

        """
        self._check_otherwise()
        for ref, share in self.shares.least().items():
            if share >= LEAST_SHARE or self.allow_partial:
                continue
            raise TensorMismatchError(
                f"checkpoint {ref} gives {percent(share)} of its elements (embeddings and heads not counted) to the "
                f"merge: {self._reasons(ref)}",
                f"at least {percent(LEAST_SHARE)}, as models of one architecture and size give",
                "merge models of one architecture and size, or pass --allow-partial to merge what fits",
            )

    def _check_otherwise(self) -> None:
        """Refuse a model that stores weights of a layer under other names, or cut otherwise."""
        for (kind, ref, reference), unused in self._found.items():
            missing = self._found.get(("missing", ref, reference), {})
            if kind != "unused" or self.allow_partial or not (found := find_otherwise(missing, unused)):
                continue
            lacking, there = (", ".join(map(shown, names[:3])) + ", ..." * (len(names) > 3) for names in found)
            raise TensorMismatchError(
                f"checkpoint {ref} has {there} where {reference} has {lacking}, with as many elements",
                "weights under the same names, and cut in the same way",
                "store both models in one way, or pass --allow-partial to merge each without the other",
            )

    def warnings(self) -> list[str]:
        """Say what was found, in one sentence for each kind and checkpoint."""
        texts = []
        for (kind, ref, reference), found in self._found.items():
            of_whom = {
                "of_ref": self._share_of(ref, found),
                "of_reference": self._share_of(reference, found),
            }
            texts.append(f"{_TEXTS[kind].format(ref=ref, reference=reference, **of_whom)} (such as {_example(found)})")
        if self._copied:
            count = counted(len(self._copied), "tensor")
            texts.append(
                f"{count} not merged, as too few models have them, but taken as they are (such as "
                f"{_example(self._copied)})"
            )
        if self._scaled:
            texts.append(
                f"{counted(len(self._scaled), 'tensor')} merged with the weights of the models that have them, scaled "
                f"to the sum of all models' weights (such as {_example(self._scaled)})"
            )
        return texts

    def _share_of(self, ref: ModelRef, found: Mapping[str, Shape]) -> str:
        """Count tensors, and say which share of a checkpoint's elements they are."""
        share = elements_of(found) / max(1, elements_of(self.catalogues[ref]))
        count = counted(len(found), "tensor")
        return f"{count} with {percent(share)} of the elements of {ref}"

    def _reasons(self, ref: ModelRef) -> str:
        """Say why a model gives so little, with the largest tensor that is left out as an example."""
        reasons = []
        for (kind, other, reference), found in self._found.items():
            if other != ref or kind not in ("shape", "unused"):
                continue
            name = max(found, key=lambda item: prod(found[item]))
            expected = self.catalogues[reference].get(name)
            count = counted(len(found), "tensor")
            if kind == "shape" and expected is not None:
                like = f"such as {shown(name)} with {list(found[name])} for {list(expected)}"
                reasons.append(f"{count} of another shape than in {reference}, {like}")
            else:
                reasons.append(f"{count} that {reference} lacks, such as {shown(name)}")
        return "; ".join(reasons)

    def _note(self, kind: Kind, ref: ModelRef, reference: ModelRef, name: str, shape: Shape) -> None:
        self._found.setdefault((kind, ref, reference), {})[name] = shape


def _is_loose_vocabulary(name: str) -> bool:
    """Whether a tensor is outside the layers, with rows that stand for tokens or positions."""
    return is_vocabulary(name) and parse_layer(name) is None


def _example(names: Iterable[str]) -> str:
    return shown(next(iter(names)))

"""Tensors that do not stand alike in all checkpoints: what is done about them, and what a person is told.

The output has the tensors of the reference (the base model, else the first model) in its shapes, and its
configuration. So

- a tensor that a model lacks, or has in another shape, is merged from the other models alone;
- an embedding with more rows than the reference's is cut to them, one with fewer gets the missing rows from the
  reference, which says that the model changed nothing there;
- where too few models are left for the method, the reference's tensor is taken as it is;
- tensors that the reference lacks are left out.

Each of these is a warning, and an error if so asked for (``--strict``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.io.errors import TensorMismatchError

Shape = tuple[int, ...]
Kind = Literal["missing", "shape", "cut", "filled", "unused"]

_VOCABULARY = re.compile(
    r"(?:^|\.)(?:[a-z0-9_]*emb[a-z0-9_]*|wte|wpe|shared|lm_head|output|output_layer|predictions)\.", re.IGNORECASE
)
"""Names of tensors whose rows stand for tokens or positions."""

_TEXTS: Final[Mapping[str, str]] = {
    "missing": "missing in {ref}, and merged without it: {names}",
    "shape": "of another shape in {ref} than in {reference}, and merged without it: {names}",
    "cut": "of {ref} cut to the rows of {reference}: {names}",
    "filled": "of {ref} with fewer rows than in {reference}, whose rows stand in for them: {names}",
}
_ACTION = "merge checkpoints of one architecture and vocabulary, or merge without --strict"


def is_vocabulary(name: str) -> bool:
    """Whether the rows of a tensor outside the layers stand for tokens or positions."""
    return _VOCABULARY.search(name) is not None


def rows_differ(shape: Shape, found: Shape) -> bool:
    """Whether two shapes differ in nothing but the number of rows."""
    return bool(shape) and len(shape) == len(found) and shape[1:] == found[1:] and shape[0] != found[0]


class Gaps:
    """Collects what does not stand alike, for warnings.

    Parameters
    ----------
    strict
        Whether the first is an error.

    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._found: dict[tuple[Kind, ModelRef, ModelRef], dict[str, None]] = {}
        self._copied: dict[str, None] = {}

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
        self._note("missing", ref, reference, [name])

    def unlike(self, kind: Kind, ref: ModelRef, reference: ModelRef, name: str, shape: Shape, found: Shape) -> None:
        """Note that a model has a tensor in another shape; raises as `missing` does."""
        if self.strict:
            raise TensorMismatchError(
                f"tensor {shown(name)} of checkpoint {ref} has shape {list(found)}",
                f"{list(shape)}, as in {reference}",
                _ACTION,
            )
        self._note(kind, ref, reference, [name])

    def unused(self, ref: ModelRef, names: Iterable[str]) -> None:
        """Note tensors of a checkpoint that are not in the output; raises as `missing` does."""
        names = list(names)
        if names and self.strict:
            raise TensorMismatchError(
                f"tensor {shown(names[0])} of checkpoint {ref} is missing in the others",
                "the same tensors in all",
                _ACTION,
            )
        if names:
            self._note("unused", ref, ref, names)

    def copied(self, name: str) -> None:
        """Note that too few models have a tensor for the method."""
        self._copied[name] = None

    def refs(self) -> set[ModelRef]:
        """Give the models without which tensors were merged."""
        return {ref for kind, ref, _ in self._found if kind in ("missing", "shape")}

    def warnings(self) -> list[str]:
        """Say what was found, in one sentence for each kind and checkpoint."""
        texts = []
        for (kind, ref, reference), names in self._found.items():
            count = f"{len(names)} tensor" + "s" * (len(names) > 1)
            if kind == "unused":
                texts.append(f"not in the output: {count} of {ref} that the others lack: {_some(names)}")
            else:
                texts.append(f"{count} {_TEXTS[kind].format(ref=ref, reference=reference, names=_some(names))}")
        if self._copied:
            count = f"{len(self._copied)} tensor" + "s" * (len(self._copied) > 1)
            texts.append(
                f"{count} not merged, as too few models have them, but taken as they are: {_some(self._copied)}"
            )
        return texts

    def _note(self, kind: Kind, ref: ModelRef, reference: ModelRef, names: Iterable[str]) -> None:
        self._found.setdefault((kind, ref, reference), {}).update(dict.fromkeys(names))


def _some(names: Mapping[str, None]) -> str:
    return ", ".join(shown(name) for name in list(names)[:3]) + (", ..." if len(names) > 3 else "")

"""Which tensors have a row for every token.

There are no tables of architectures. A tensor has a vocabulary axis, its first, if

- its name ends in one of the usual names of embeddings and output layers, and it has as many rows as the model's
  ``vocab_size`` says or more (padding); or
- its number of rows differs from model to model just as that of the embeddings does, and its other dimensions do not.

Position embeddings and the like meet neither. A tensor that has as many rows as the embeddings and an unusual name is
left as it is, and a warning names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dovetail.io.errors import TensorMismatchError

_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "tokens_embed.weight",
    "embed_in.weight", "shared.weight", "embeddings.weight", "token_embedding.weight", "word_embedding.weight",
)  # fmt: skip
_HEADS = (
    "lm_head.weight", "lm_head.bias", "lm_head.linear.weight", "lm_head.linear.bias", "lm_head.decoder.weight",
    "lm_head.decoder.bias", "embed_out.weight", "embed_out.bias", "output_layer.weight", "output.weight",
    "proj_out.weight", "vocab_projector.weight", "vocab_projector.bias", "predictions.bias",
    "predictions.decoder.weight", "predictions.decoder.bias", "generator_lm_head.weight", "generator_lm_head.bias",
)  # fmt: skip
_NAMES = frozenset((*_EMBEDDINGS, *_HEADS))
_ENDINGS = tuple(f".{name}" for name in _NAMES)
_NUMBERED = re.compile(r"(?:^|\.)\d+\.")

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by tensor name."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What was found."""

    tensors: tuple[str, ...]
    """Names of the tensors with a row for every token."""
    sizes: tuple[int, ...]
    """Number of tokens that each model has embeddings for."""
    unsure: tuple[str, ...]
    """Tensors that have as many rows as the embeddings and an unusual name."""


def find_axis(models: Sequence[Shapes], sizes: Sequence[int | None], labels: Sequence[str]) -> Axis:
    """Find the tensors with a row for every token.

    Parameters
    ----------
    models
        The tensors of every model.
    sizes
        The ``vocab_size`` of each; None where it is not known: then it is the embeddings' number of rows.
    labels
        Their names, for messages.

    Raises
    ------
    TensorMismatchError
        A model's embeddings have fewer rows than its ``vocab_size``, or dimensions that differ from the other models'.

    """
    named = [[name for name, shape in shapes.items() if _fits(name, shape)] for shapes in models]
    known = [_size(shapes, found, size) for shapes, found, size in zip(models, named, sizes, strict=True)]
    for label, shapes, found, size in zip(labels, models, named, known, strict=True):
        most = max((shapes[name][0] for name in found), default=size)
        if most < size:
            raise TensorMismatchError(
                f"the embeddings of {label} have {most} rows",
                f"at least {size}, the vocab_size of its config.json",
                "repair the checkpoint's config.json",
            )
    chosen: dict[str, None] = {}
    for shapes, found, size in zip(models, named, known, strict=True):
        chosen.update(dict.fromkeys(name for name in found if shapes[name][0] >= size))
    rows = [max((s[n][0] for n in found if n in chosen), default=0) for s, found in zip(models, named, strict=True)]
    alike = {name: None for name in dict.fromkeys(n for shapes in models for n in shapes) if name not in chosen}
    alike = {name: None for name in alike if _moves_along(name, models, rows)}
    if len({count for count in rows if count}) > 1:
        chosen |= {name: None for name in alike if _differs(name, models)}
    unsure = [name for name in alike if name not in chosen and not _NUMBERED.search(name)]
    for name in chosen:
        _check(name, models, known, labels)
    return Axis(tuple(chosen), tuple(known), tuple(unsure))


def _fits(name: str, shape: tuple[int, ...]) -> bool:
    return (name.endswith(_ENDINGS) or name in _NAMES) and len(shape) in (1, 2) and min(shape) > 0


def _size(shapes: Shapes, found: Sequence[str], size: int | None) -> int:
    """Give a model's number of tokens: what it says, or the embeddings' rows."""
    return size if size is not None else max((shapes[name][0] for name in found), default=0)


def _moves_along(name: str, models: Sequence[Shapes], rows: Sequence[int]) -> bool:
    """Whether a tensor has as many rows as the embeddings in every model that has it, and else one shape."""
    rest: set[tuple[int, ...]] = set()
    for shapes, count in zip(models, rows, strict=True):
        shape = shapes.get(name)
        if shape is None:
            continue
        if not shape or shape[0] != count or min(shape) == 0:
            return False
        rest.add(shape[1:])
    return 1 == len(rest)


def _differs(name: str, models: Sequence[Shapes]) -> bool:
    return len({shapes[name][0] for shapes in models if name in shapes}) > 1


def _check(name: str, models: Sequence[Shapes], sizes: Sequence[int], labels: Sequence[str]) -> None:
    """Refuse a tensor that has a row for every token in one model, and something else in another."""
    there = [entry for entry in zip(models, sizes, labels, strict=True) if name in entry[0]]
    first = there[0][0][name]
    for shapes, size, label in there:
        shape = shapes[name]
        if shape[1:] != first[1:] or shape[0] < size:
            raise TensorMismatchError(
                f"tensor {name!r} of checkpoint {label} has shape {list(shape)}",
                f"at least {size} rows, one a token, and else {list(first[1:])} as in {there[0][2]}",
                "merge checkpoints of one architecture",
            )

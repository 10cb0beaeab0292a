"""Experts that some models store one by one and others fused, seen by all in one of the two ways.

A mixture of experts has for each expert the matrices gate, up ``[I, H]`` and down ``[H, I]``, and seldom biases. They
are stored

- one by one, as ``mlp.experts.3.gate_proj.weight`` or, by Mixtral's names, ``block_sparse_moe.experts.3.w1.weight``;
- fused, as ``mlp.experts.gate_up_proj`` and ``mlp.experts.down_proj``, in one of the ways of `expert_packings`.

Models that are stored in two ways, one of which is not known, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dovetail.engine.planning.expert_packings import FUSED_WORDS, ROWS, Packing, cut, find_packing, fits, stack
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import TensorMismatchError

_WORDS: Final = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
"""What gate, up and down are called where they are stored one by one."""
_PLAIN: Final = ("gate", "up", "down")
_WORDS_OF: Final = {word: words for words in _WORDS for word in words}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_ROUTERS: Final = (
    ("gate.weight", "router.weight"),
    ("e_score_correction_bias", "gate.e_score_correction_bias"),
)
"""Names of one tensor of a router beside the experts, of which a model has one or the other."""

Tensors = Mapping[str, TensorInfo]


class Style(NamedTuple):
    """How a checkpoint stores its experts."""

    words: tuple[str, str, str] | None
    """What gate, up and down are called; None where experts are fused."""
    block: str
    """What the part of a layer that has them is called."""
    packing: Packing | None = None
    """How they are fused, where that is known."""


@dataclass(slots=True)
class _Block:
    """The experts of one layer."""

    place: str
    """What the names begin with, up to the block's own."""
    style: Style
    """How they are stored."""
    parts: dict[tuple[str, int], TensorInfo]
    """By word and expert; by word and -1 where they are fused. Words of biases end in ``_bias``."""

    @property
    def prefix(self) -> str:
        """What the names of its tensors begin with."""
        return f"{self.place}{self.style.block}."


def is_expert(name: str) -> bool:
    """Whether a tensor has weights of one expert, or of all."""
    return _parse(name) is not None


def block_prefixes(tensors: Tensors) -> list[str]:
    """Give what the names of experts, and of the routers beside them, begin with."""
    return [block.prefix for block in _blocks(tensors).values()]


def style_of(tensors: Tensors, types: frozenset[str]) -> Style | None:
    """Tell how a checkpoint stores its experts; None if it has none, or not all in one way.

    Parameters
    ----------
    tensors
        Its tensors.
    types
        Every ``model_type`` of its configuration, which tells how experts are fused.

    """
    blocks = _blocks(tensors).values()
    styles = {block.style for block in blocks}
    if len(styles) != 1:
        return None
    style = styles.pop()
    if style.words is not None:
        return style
    packings = {find_packing(types, *_fused_shapes(block)) for block in blocks}
    return style._replace(packing=packings.pop() if len(packings) == 1 else None)


def _fused_shapes(block: _Block) -> tuple[Sequence[int], Sequence[int]]:
    gate_up, down = block.parts.get(("gate_up_proj", -1)), block.parts.get(("down_proj", -1))
    return (gate_up.shape if gate_up else ()), (down.shape if down else ())


def first_difference(one: Tensors, other: Tensors) -> str:
    """Give a place where two checkpoints store experts in different ways, if one of them mixes ways; else nothing."""
    styles = [{block.place: block.style for block in _blocks(tensors).values()} for tensors in (one, other)]
    if max(len(set(found.values())) for found in styles) < 2:
        return ""
    return next((place for place, style in styles[0].items() if styles[1].get(place, style) != style), "")


def restyled(tensors: Tensors, own: Style, style: Style, model: str, reference: str) -> dict[str, TensorInfo]:
    """Present a checkpoint's tensors with its experts stored in another way.

    Parameters
    ----------
    tensors
        Its tensors.
    own, style
        How it stores them, and the other way.
    model, reference
        Names of the checkpoint, and of that which stores experts so, for errors.

    Raises
    ------
    TensorMismatchError
        An expert lacks a matrix, or the shapes are not those of experts.

    """
    blocks = _blocks(tensors)
    made: dict[str, TensorInfo] = {}
    for block in blocks.values():
        made |= _restyled_block(block, own.packing or ROWS, style, model, reference)
    moved = {block.prefix: block for block in blocks.values() if block.style.block != style.block}
    beside = {name: info for name, info in tensors.items() if not is_expert(name)}
    return {_moved(name, moved, style): info for name, info in beside.items()} | made


def align_routers(tensors: Tensors, reference: Tensors) -> dict[str, TensorInfo]:
    """Call the tensors of routers as another checkpoint does, where it has them by the other of two names."""
    result = {}
    for name, info in tensors.items():
        new = name
        if name not in reference:
            others = (
                name.removesuffix(old) + other
                for pair in _ROUTERS
                for old, other in (pair, pair[::-1])
                if name.endswith(f".{old}")
            )
            new = next((each for each in others if each in reference and each not in tensors), name)
        result[new] = info
    return result


def _moved(name: str, moved: Mapping[str, _Block], style: Style) -> str:
    """Name a tensor that stands beside experts, such as the router, where their block has another name."""
    end = name.find(".") if moved else -1
    while end >= 0:
        if (block := moved.get(name[: end + 1])) is not None:
            return f"{block.place}{style.block}.{name[end + 1 :]}"
        end = name.find(".", end + 1)
    return name


def _blocks(tensors: Tensors) -> dict[str, _Block]:
    """Sort experts by the part of a layer that has them."""
    found: dict[str, _Block] = {}
    for name, info in tensors.items():
        if (parsed := _parse(name)) is not None:
            where, word, expert = parsed
            block = found.get(where)
            if block is None:
                place, point, own = where.rpartition(".")
                block = found[where] = _Block(
                    place + point, Style(None if expert < 0 else _WORDS_OF[word.removesuffix("_bias")], own), {}
                )
            block.parts[word, expert] = info
    return found


def _parse(name: str) -> tuple[str, str, int] | None:
    """Take an expert's name apart: what has the experts, the matrix, and which expert (-1 for all); None of others."""
    where, found, rest = name.partition(".experts.")  # no regular expression: there may be 50,000 names
    if not found or not where:
        return None
    if rest in FUSED_WORDS:
        return where, rest, -1
    number, _, matrix = rest.partition(".")
    word, _, kind = matrix.partition(".")
    if kind not in ("weight", "bias") or word not in _WORDS_OF or not _NUMBER.fullmatch(number):
        return None
    return where, word if kind == "weight" else f"{word}_bias", int(number)


def _restyled_block(block: _Block, packing: Packing, style: Style, model: str, reference: str) -> dict[str, TensorInfo]:
    """Present one layer's experts in another way."""
    where = f"{block.place}{style.block}.experts."
    parts = (
        _cut(block, packing, model, reference) if block.style.words is None else _one_by_one(block, model, reference)
    )
    if style.words is None:
        return {f"{where}{word}": info for word, info in stack(parts, style.packing or ROWS).items()}
    made: dict[str, TensorInfo] = {}
    for plain, word in zip(_PLAIN, style.words, strict=True):
        for kind, infos in (("weight", parts[plain]), ("bias", parts.get(f"{plain}_bias", []))):
            made |= {f"{where}{expert}.{word}.{kind}": info for expert, info in enumerate(infos)}
    return made


def _one_by_one(block: _Block, model: str, reference: str) -> dict[str, list[TensorInfo]]:
    """Give what every expert has, as `expert_packings.cut` does."""
    assert block.style.words is not None
    count = 1 + max(expert for _, expert in block.parts)
    parts: dict[str, list[TensorInfo]] = {}
    for end, dimensions in (("", 2), ("_bias", 1)):
        if end and not any(word.endswith(end) for word, _ in block.parts):
            continue
        for plain, word in zip(_PLAIN, block.style.words, strict=True):
            infos = [block.parts.get((word + end, expert)) for expert in range(count)]
            for expert, info in enumerate(infos):
                if info is None or infos[0] is None or info.shape != infos[0].shape or len(info.shape) != dimensions:
                    raise _unfit(
                        f"{block.prefix}experts.{expert}.{word}.{'bias' if end else 'weight'}", info, model, reference
                    )
            parts[plain + end] = [info for info in infos if info is not None]
    if parts["gate"][0].shape != parts["up"][0].shape:
        raise _unfit(f"{block.prefix}experts.0.{block.style.words[1]}.weight", parts["up"][0], model, reference)
    return parts


def _cut(block: _Block, packing: Packing, model: str, reference: str) -> dict[str, list[TensorInfo]]:
    """Cut fused experts into what every expert has."""
    infos = {word: info for (word, _), info in block.parts.items()}
    gate_up, down = _fused_shapes(block)
    if not fits(packing, gate_up, down):
        word = "gate_up_proj" if len(gate_up) != 3 else "down_proj"
        raise _unfit(f"{block.prefix}experts.{word}", infos.get(word), model, reference)
    outputs = 2 if packing.columns else 1
    biases = {
        "gate_up_proj_bias": (gate_up[0], gate_up[outputs]),
        "down_proj_bias": (down[0], down[outputs]),
    }
    for word, shape in biases.items():
        info = infos.get(word)
        if biases.keys() & infos.keys() and (info is None or info.shape != shape):
            raise _unfit(f"{block.prefix}experts.{word}", info, model, reference)
    return cut(infos, packing)


def _unfit(name: str, info: TensorInfo | None, model: str, reference: str) -> TensorMismatchError:
    found = "is missing" if info is None else f"has shape {list(info.shape)}"
    return TensorMismatchError(
        f"tensor {name!r} of checkpoint {model} {found}",
        f"gate, up and down of every expert, in like shapes, to be matched with those of {reference}, stored otherwise",
        "complete the checkpoint, or store both models in one way",
    )

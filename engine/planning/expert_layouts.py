"""Experts that some models store one by one and others fused, seen by all in one of the two ways.

A mixture of experts has for each expert the matrices gate, up ``[I, H]`` and down ``[H, I]``. They are stored

- one by one, as ``mlp.experts.3.gate_proj.weight`` or, by Mixtral's names, ``block_sparse_moe.experts.3.w1.weight``;
- fused, as ``mlp.experts.gate_up_proj [E, 2I, H]``, each expert's gate above its up, and ``mlp.experts.down_proj
  [E, H, I]``.

That gate comes first and that rows are outputs is known of the architectures in `FUSED_BY_ROWS`. Others transpose or
interleave them, which no shape tells where a matrix is square: of these, models stored in two ways are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import TensorMismatchError
from dovetail.io.sources.parts import ElementRun, joined

FUSED_BY_ROWS: Final = frozenset(
    (
        "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo",
        "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "jamba", "lfm2_moe",
        "longcat_flash", "minimax", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe_text",
        "qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", "solar_open",
    )
)  # fmt: skip
"""Values of ``model_type`` of which transformers' table of conversions says that it stacks experts along the first
dimension, and puts gate before up along the second."""

_WORDS: Final = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
"""What gate, up and down are called where they are stored one by one."""
_WORDS_OF: Final = {word: words for words in _WORDS for word in words}
_FUSED_WORDS: Final = ("gate_up_proj", "down_proj")
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


@dataclass(slots=True)
class _Block:
    """The experts of one layer."""

    place: str
    """What the names begin with, up to the block's own."""
    style: Style
    """How they are stored."""
    parts: dict[tuple[str, int], TensorInfo]
    """By word and expert; by word and -1 where they are fused."""

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


def style_of(tensors: Tensors) -> Style | None:
    """Tell how a checkpoint stores its experts; None if it has none, or not all in one way."""
    styles = {block.style for block in _blocks(tensors).values()}
    return styles.pop() if len(styles) == 1 else None


def first_difference(one: Tensors, other: Tensors) -> str:
    """Give a place where two checkpoints store experts in different ways, if one of them mixes ways; else nothing."""
    styles = [{block.place: block.style for block in _blocks(tensors).values()} for tensors in (one, other)]
    if max(len(set(found.values())) for found in styles) < 2:
        return ""
    return next((place for place, style in styles[0].items() if styles[1].get(place, style) != style), "")


def model_types(config: Mapping[str, Any] | None) -> frozenset[str]:
    """Give the architectures that a configuration names, those of its parts included."""
    found = {str((config or {}).get("model_type", ""))}
    for key, value in (config or {}).items():
        if key.endswith("_config") and isinstance(value, dict):
            found |= model_types(value)
    return frozenset(found - {""})


def restyled(tensors: Tensors, style: Style, model: str, reference: str) -> dict[str, TensorInfo]:
    """Present a checkpoint's tensors with its experts stored in another way.

    Parameters
    ----------
    tensors
        Its tensors.
    style
        The other way.
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
        made |= _restyled_block(block, style, model, reference)
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
                block = found[where] = _Block(place + point, Style(None if expert < 0 else _WORDS_OF[word], own), {})
            block.parts[word, expert] = info
    return found


def _parse(name: str) -> tuple[str, str, int] | None:
    """Take an expert's name apart: what has the experts, the matrix, and which expert (-1 for all); None of others."""
    where, found, rest = name.partition(".experts.")  # no regular expression: there may be 50,000 names
    if not found or not where:
        return None
    if rest in _FUSED_WORDS:
        return where, rest, -1
    number, _, matrix = rest.partition(".")
    word = matrix.removesuffix(".weight")
    if word == matrix or word not in _WORDS_OF or not _NUMBER.fullmatch(number):
        return None
    return where, word, int(number)


def _restyled_block(block: _Block, style: Style, model: str, reference: str) -> dict[str, TensorInfo]:
    """Present one layer's experts in another way."""
    where = f"{block.place}{style.block}.experts."
    gates, ups, downs = _matrices(block, model, reference)
    if style.words is None:
        pairs = [each for pair in zip(gates, ups, strict=True) for each in pair]
        rows, columns = gates[0].shape
        return {
            f"{where}gate_up_proj": _stacked(pairs, (len(gates), 2 * rows, columns)),
            f"{where}down_proj": _stacked(downs, (len(downs), *downs[0].shape)),
        }
    made = {}
    for expert, matrices in enumerate(zip(gates, ups, downs, strict=True)):
        for word, info in zip(style.words, matrices, strict=True):
            made[f"{where}{expert}.{word}.weight"] = info
    return made


def _matrices(block: _Block, model: str, reference: str) -> tuple[list[TensorInfo], ...]:
    """Give every expert's gate, up and down."""
    if block.style.words is None:
        return _cut(block, model, reference)
    count = 1 + max(expert for _, expert in block.parts)
    for expert in range(count):
        for word in block.style.words:
            info = block.parts.get((word, expert))
            first = block.parts.get((word, 0))
            if info is None or first is None or info.shape != first.shape or len(info.shape) != 2:
                raise _unfit(f"{block.prefix}experts.{expert}.{word}.weight", info, model, reference)
    gate, up, down = ([block.parts[word, expert] for expert in range(count)] for word in block.style.words)
    if gate[0].shape != up[0].shape:
        raise _unfit(f"{block.prefix}experts.0.{block.style.words[1]}.weight", up[0], model, reference)
    return gate, up, down


def _cut(block: _Block, model: str, reference: str) -> tuple[list[TensorInfo], ...]:
    """Cut fused experts into matrices."""
    fused, down = block.parts.get(("gate_up_proj", -1)), block.parts.get(("down_proj", -1))
    if fused is None or len(fused.shape) != 3 or fused.shape[1] % 2:
        raise _unfit(f"{block.prefix}experts.gate_up_proj", fused, model, reference)
    count, rows, columns = fused.shape
    if down is None or down.shape != (count, columns, rows // 2):
        raise _unfit(f"{block.prefix}experts.down_proj", down, model, reference)
    half = (rows // 2, columns)
    return (
        [_part(fused, 2 * expert * prod(half), half) for expert in range(count)],
        [_part(fused, (2 * expert + 1) * prod(half), half) for expert in range(count)],
        [_part(down, expert * prod(down.shape[1:]), down.shape[1:]) for expert in range(count)],
    )


def _part(info: TensorInfo, first: int, shape: tuple[int, ...]) -> TensorInfo:
    """Present a matrix of a stack, from an element on."""
    return TensorInfo(info.name, info.dtype, shape, ElementRun(info.source, first, prod(shape)), info.own_dtype)


def _stacked(infos: list[TensorInfo], shape: tuple[int, ...]) -> TensorInfo:
    """Present matrices as a stack."""
    source = joined([(info.source, info.dtype) for info in infos if info.length])
    same = source.dtype == infos[0].dtype
    own = infos[0].own_dtype if same else max((info.output_dtype for info in infos), key=lambda dtype: dtype.itemsize)
    return TensorInfo(infos[0].name, source.dtype, shape, source, own)


def _unfit(name: str, info: TensorInfo | None, model: str, reference: str) -> TensorMismatchError:
    found = "is missing" if info is None else f"has shape {list(info.shape)}"
    return TensorMismatchError(
        f"tensor {name!r} of checkpoint {model} {found}",
        f"gate, up and down of every expert, in like shapes, to be matched with those of {reference}, stored otherwise",
        "complete the checkpoint, or store both models in one way",
    )

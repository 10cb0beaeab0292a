"""How architectures put the experts of a layer into one tensor, and views of one way in another.

Of each expert there are matrices gate and up ``[I, H]``, and down ``[H, I]``. All are stored as

- rows: ``gate_up_proj [E, 2I, H]``, each expert's gate above its up, and ``down_proj [E, H, I]``;
- columns: ``gate_up_proj [E, H, 2I]``, gate left of up, and ``down_proj [E, I, H]``;
- alternating columns: as before, but columns of gate and up take turns; biases do so too.

Which of them it is, no shape of one tensor tells, as a matrix may be square. The architecture says it; where files of
one architecture have rows or columns, both shapes together do: rows would have ``[E, 2a, b]`` beside ``[E, b, a]``, and
columns ``[E, b, 2a]`` beside ``[E, a, b]``, which no numbers above zero make alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final, NamedTuple

from dovetail.io.checkpoint import TensorInfo
from dovetail.io.source import Source
from dovetail.io.sources.parts import ElementRun, joined
from dovetail.io.sources.transposed import stored_across
from dovetail.io.sources.views import viewed

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


class Packing(NamedTuple):
    """One way to fuse experts."""

    columns: bool
    """Whether rows of a stored matrix are inputs, not outputs."""
    alternating: bool
    """Whether outputs of gate and up take turns."""


ROWS: Final = Packing(columns=False, alternating=False)
COLUMNS: Final = Packing(columns=True, alternating=False)
ALTERNATING: Final = Packing(columns=True, alternating=True)

_BY_TYPE: Final[Mapping[str, Packing]] = {
    **dict.fromkeys(FUSED_BY_ROWS, ROWS),
    "llama4": COLUMNS,
    "llama4_text": COLUMNS,
    "gpt_oss": ALTERNATING,
}

_EITHER: Final = frozenset(("qwen3_vl_moe", "qwen3_vl_moe_text"))
"""Architectures that have columns on the hub, and rows in transformers."""

FUSED_WORDS: Final = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")
"""What fused tensors are called, biases last."""


def find_packing(types: frozenset[str], gate_up: Sequence[int], down: Sequence[int]) -> Packing | None:
    """Tell how an architecture fuses experts; None if that is not known.

    Parameters
    ----------
    types
        Every ``model_type`` in a configuration.
    gate_up, down
        Shapes of the fused matrices of one layer, where they are those of a file.

    """
    known = {_BY_TYPE[each] for each in types if each in _BY_TYPE}
    if len(known) == 1 and not types & _EITHER:
        return known.pop()
    if types & _EITHER and len(gate_up) == len(down) == 3:
        return next((each for each in (ROWS, COLUMNS) if fits(each, gate_up, down)), None)
    return None


def fits(packing: Packing, gate_up: Sequence[int], down: Sequence[int]) -> bool:
    """Whether two fused matrices have shapes of a packing."""
    if len(gate_up) != 3 or len(down) != 3 or 0 in gate_up:
        return False
    rows, columns = gate_up[:0:-1] if packing.columns else gate_up[1:]
    hidden, inner = down[:0:-1] if packing.columns else down[1:]
    return (gate_up[0], rows, columns) == (down[0], 2 * inner, hidden)


def cut(infos: Mapping[str, TensorInfo], packing: Packing) -> dict[str, list[TensorInfo]]:
    """Cut fused tensors into what each expert has.

    Parameters
    ----------
    infos
        The tensors of one layer, by `FUSED_WORDS`; their shapes fit.
    packing
        How they are fused.

    Returns
    -------
    dict
        For ``gate``, ``up`` and ``down``, and for these with ``_bias`` if there are biases, one tensor an expert.

    """
    gate_up, down = infos["gate_up_proj"], infos["down_proj"]
    count = gate_up.shape[0]
    found: dict[str, list[TensorInfo]] = {"gate": [], "up": [], "down": []}
    for half, word in enumerate(("gate", "up")):
        found[word] = [_half(gate_up, expert, half, packing) for expert in range(count)]
    found["down"] = [_matrix(down, expert, packing.columns) for expert in range(count)]
    if "gate_up_proj_bias" in infos:
        biases, more = infos["gate_up_proj_bias"], infos["down_proj_bias"]
        inner = biases.shape[1] // 2
        step, first = (2, 1) if packing.alternating else (1, inner)
        for half, word in enumerate(("gate_bias", "up_bias")):
            places = [2 * inner * expert + half * first for expert in range(count)]
            found[word] = [_view(biases, (inner,), place, (step,)) for place in places]
        width = more.shape[1]
        found["down_bias"] = [_view(more, (width,), width * expert, (1,)) for expert in range(count)]
    return found


def stack(parts: Mapping[str, Sequence[TensorInfo]], packing: Packing) -> dict[str, TensorInfo]:
    """Fuse what experts have, as `cut` gives it; the reverse of `cut`."""
    (inner, hidden), count = parts["gate"][0].shape, len(parts["gate"])
    size = 2 * inner * hidden
    gate_up = _joined([each for pair in zip(parts["gate"], parts["up"], strict=True) for each in pair])
    down = _joined(parts["down"])
    made = {}
    if not packing.columns:
        made["gate_up_proj"] = _shaped(gate_up, (count, 2 * inner, hidden))
        made["down_proj"] = _shaped(down, (count, hidden, inner))
    else:
        turned = (count, hidden, inner, 2), (size, 1, hidden, inner * hidden)
        aside = (count, hidden, 2 * inner), (size, 1, hidden)
        shape, strides = turned if packing.alternating else aside
        made["gate_up_proj"] = _shaped(_view(gate_up, shape, 0, strides), (count, hidden, 2 * inner))
        made["down_proj"] = _view(down, (count, inner, hidden), 0, (inner * hidden, 1, inner))
    if "gate_bias" in parts:
        biases = _joined([each for pair in zip(parts["gate_bias"], parts["up_bias"], strict=True) for each in pair])
        if packing.alternating:
            biases = _view(biases, (count, inner, 2), 0, (2 * inner, 1, inner))
        made["gate_up_proj_bias"] = _shaped(biases, (count, 2 * inner))
        made["down_proj_bias"] = _shaped(_joined(parts["down_bias"]), (count, hidden))
    return made


def _half(info: TensorInfo, expert: int, half: int, packing: Packing) -> TensorInfo:
    """Present gate (half 0) or up (half 1) of an expert."""
    _, rows, columns = info.shape
    inner, hidden = (columns // 2, rows) if packing.columns else (rows // 2, columns)
    by_rows = not packing.columns
    if (stored := stored_across(info.source)) is not None:  # what it transposes lies the other way
        info, by_rows = _with_source(info, stored), not by_rows
    across = hidden if by_rows else 1
    step, first = (2 * across, across) if packing.alternating else (across, inner * across)
    strides = (step, 1) if by_rows else (step, 2 * inner)
    return _view(info, (inner, hidden), 2 * inner * hidden * expert + half * first, strides)


def _matrix(info: TensorInfo, expert: int, columns: bool) -> TensorInfo:
    """Present one matrix of a stack, transposed if it is stored by columns."""
    size, shape = prod(info.shape[1:]), info.shape[1:]
    if (stored := stored_across(info.source)) is not None:
        info, columns, shape = _with_source(info, stored), not columns, shape[::-1]
    if columns:
        return _view(info, shape[::-1], size * expert, (1, shape[1]))
    return _view(info, shape, size * expert, (shape[1], 1))


def _with_source(info: TensorInfo, source: Source) -> TensorInfo:
    return TensorInfo(info.name, info.dtype, info.shape, source, info.own_dtype)


def _view(info: TensorInfo, shape: tuple[int, ...], first: int, strides: tuple[int, ...]) -> TensorInfo:
    """Present elements of a tensor at regular distances; as a run where they lie one after another."""
    dense = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if list(strides) == dense:
        return TensorInfo(info.name, info.dtype, shape, ElementRun(info.source, first, prod(shape)), info.own_dtype)
    return TensorInfo(info.name, info.dtype, shape, viewed(info.source, first, shape, strides), info.own_dtype)


def _shaped(info: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo(info.name, info.dtype, shape, info.source, info.own_dtype)


def _joined(infos: Sequence[TensorInfo]) -> TensorInfo:
    """Present tensors one after another, as one long tensor."""
    source = joined([(info.source, info.dtype) for info in infos if info.length])
    same = source.dtype == infos[0].dtype
    own = infos[0].own_dtype if same else max((info.output_dtype for info in infos), key=lambda dtype: dtype.itemsize)
    return TensorInfo(infos[0].name, source.dtype, (source.length,), source, own)

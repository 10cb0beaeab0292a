"""Formats of quantised checkpoints that are not read: how they are recognised, and what the user can do instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from dovetail.io.errors import UnsupportedError

LAST_PARTS: Final[Mapping[str, str]] = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "SCB": "bitsandbytes int8",
    "quant_map": "bitsandbytes",
    "nested_quant_map": "bitsandbytes",
    "absmax": "bitsandbytes",
    "weight_scale_inv": "scaled float8",
    "weight_packed": "compressed-tensors",
    "weight_scale_2": "NVFP4",
    "weight_global_scale": "NVFP4",
    "weight_zero_point": "compressed-tensors, with zero points",
    "weight_g_idx": "compressed-tensors, with columns in another order",
}
"""Last parts of tensor names that only quantised checkpoints have."""

_FORMATS: Final[Mapping[str, str]] = {
    "codes": "AQLM",
    "indices": "VPTQ",
    "W_q": "HQQ",
    "Qidxs": "QuIP#",
    "trellis": "EXL3",
    "q_weight": "EXL2",
    "dense_weights": "SpQR",
    "bitmask": "sparse compressed-tensors",
    "B": "Marlin",
    "_data": "quanto",
    "_packed": "quanto",
}

_DEQUANTISED_BY_TRANSFORMERS: Final = frozenset(("bitsandbytes", "hqq", "higgs", "quanto"))
_DO: Final = "use the unquantised original, or convert this one to bfloat16 first"


NAME_MXFP4: Final = (
    'if this is a gpt-oss model, add "quantization_config": {"quant_method": "mxfp4"} to its config.json, which says '
    "how the experts are stored"
)
"""How the user can make blocks of 4-bit floats readable when their configuration got lost."""

NAME_BLOCKS: Final = (
    'add "quantization_config": {"quant_method": "fp8", "weight_block_size": [ROWS, COLUMNS]} to config.json, which '
    "says how large the blocks are"
)
"""What makes a weight readable on which blocks of several sizes fit."""


def format_of_part(last: str) -> str:
    """Give the one format in which names of codes end in this part; empty if no format, or more than one, has it."""
    return _FORMATS.get(last, "")


def refuse(path: Path | str, evidence: str, methods: frozenset[str] = frozenset(), action: str = "") -> NoReturn:
    """Refuse a quantised checkpoint.

    Parameters
    ----------
    path
        The checkpoint.
    evidence
        What shows that it is quantised in a way that is not read.
    methods
        The methods that its configuration names.
    action
        What a person can do who knows how it is stored, where that would make it readable.

    Raises
    ------
    UnsupportedError
        Always.

    """
    if action:
        action = f"{action}; else {_DO}"
    elif methods & _DEQUANTISED_BY_TRANSFORMERS or "bitsandbytes" in evidence:
        action = f"{_DO} (in transformers: model.dequantize(), then model.save_pretrained())"
    raise UnsupportedError(
        f"{path} is quantised: {evidence}",
        "a checkpoint in bfloat16, float16 or float32, or in scaled float8, MXFP4 or NVFP4",
        action or _DO,
    )

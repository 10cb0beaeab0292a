"""Recognising quantised checkpoints, which store codes for weights instead of the weights.

A merge of codes would give a model that loads and computes nonsense, so that such checkpoints are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dovetail.io.dtypes import DType
from dovetail.io.errors import UnsupportedError

_LAST_PARTS: Final[Mapping[str, str]] = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "SCB": "bitsandbytes int8",
    "quant_map": "bitsandbytes",
    "nested_quant_map": "bitsandbytes",
    "absmax": "bitsandbytes",
    "weight_scale_inv": "scaled float8",
    "weight_packed": "compressed-tensors",
}
"""Last parts of tensor names that only quantised checkpoints have, each with the kind of quantisation."""

_SCALES: Final = ("weight_scale", "scale_weight", "input_scale", "scales")
"""Last parts of tensor names that show quantisation if the weight with the same prefix has a dtype that holds codes."""


def refuse_quantised(path: Path | str, dtypes: Iterable[tuple[str, DType]], config: Mapping[str, Any] | None) -> None:
    """Refuse a quantised checkpoint.

    Parameters
    ----------
    path
        The checkpoint, for the error message.
    dtypes
        Name and dtype of each tensor.
    config
        The checkpoint's ``config.json``; None if it has none.

    Raises
    ------
    UnsupportedError
        If names, dtypes or configuration show that the checkpoint is quantised.

    """
    for settings in (config or {}, (config or {}).get("text_config")):
        for key in ("quantization_config", "compression_config"):
            if isinstance(settings, dict) and isinstance(found := settings.get(key), dict):
                method = found.get("quant_method", "unknown method")
                _refuse(path, f"config.json has a {key} ({method})")
    by_name = dict(dtypes)
    for name in by_name:
        stem, _, last = name.rpartition(".")
        if last in _LAST_PARTS:
            _refuse(path, f"it has tensor {name!r} ({_LAST_PARTS[last]})")
        if last.startswith("bitsandbytes__"):
            _refuse(path, f"it has tensor {name!r} (bitsandbytes)")
        if last in _SCALES and (weight := by_name.get(f"{stem}.weight")) and weight.holds_codes:
            _refuse(path, f"tensor {name!r} scales a weight of {weight.name}")


def _refuse(path: Path | str, evidence: str) -> None:
    raise UnsupportedError(
        f"{path} is quantised: {evidence}",
        "a checkpoint in bfloat16, float16 or float32",
        "use the unquantised original, or convert this one to bfloat16 first",
    )

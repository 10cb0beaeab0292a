"""The dtypes of checkpoints: one table, keyed by the names that safetensors headers use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dovetail.io.errors import DTypeNameError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """One element type, under each of the names it goes by."""

    name: str
    """Name in a safetensors header, such as ``BF16``."""
    itemsize: int
    """Size of one element in bytes."""
    zarr_name: str
    """Name in Zarr v3 metadata; also the attribute of `numpy` or `ml_dtypes`."""
    torch_name: str
    """Name in ``torch`` and in the ``torch_dtype`` of a ``config.json``."""
    mergeable: bool
    """Whether tensors of this type are merged (floating point) rather than copied."""
    packed_bits: int = 0
    """Bits of an element where several share a byte; 0 if each has bytes to itself. `itemsize` is then that of a byte,
    and a tensor's source counts bytes."""

    def __str__(self) -> str:
        return self.torch_name


_TABLE: Final = (
    DType("BOOL", 1, "bool", "bool", mergeable=False),
    DType("U8", 1, "uint8", "uint8", mergeable=False),
    DType("I8", 1, "int8", "int8", mergeable=False),
    DType("I16", 2, "int16", "int16", mergeable=False),
    DType("U16", 2, "uint16", "uint16", mergeable=False),
    DType("I32", 4, "int32", "int32", mergeable=False),
    DType("U32", 4, "uint32", "uint32", mergeable=False),
    DType("I64", 8, "int64", "int64", mergeable=False),
    DType("U64", 8, "uint64", "uint64", mergeable=False),
    DType("F16", 2, "float16", "float16", mergeable=True),
    DType("BF16", 2, "bfloat16", "bfloat16", mergeable=True),
    DType("F32", 4, "float32", "float32", mergeable=True),
    DType("F64", 8, "float64", "float64", mergeable=True),
    DType("F8_E4M3", 1, "float8_e4m3fn", "float8_e4m3fn", mergeable=True),
    DType("F8_E5M2", 1, "float8_e5m2", "float8_e5m2", mergeable=True),
)

DTYPES: Final[Mapping[str, DType]] = MappingProxyType({dtype.name: dtype for dtype in _TABLE})
"""Every dtype that Dovetail reads, by safetensors name."""

QUANTISED_DTYPES: Final[Mapping[str, DType]] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            DType("F8_E8M0", 1, "float8_e8m0fnu", "float8_e8m0fnu", mergeable=False),
            DType("F4", 1, "float4_e2m1fn", "float4_e2m1fn", mergeable=False, packed_bits=4),
            DType("F6_E2M3", 1, "float6_e2m3fn", "float6_e2m3fn", mergeable=False, packed_bits=6),
            DType("F6_E3M2", 1, "float6_e3m2fn", "float6_e3m2fn", mergeable=False, packed_bits=6),
        )
    }
)
"""Dtypes of codes and scales, by safetensors name: headers may have them, but no tensor that is merged or copied."""

UNSUPPORTED_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "C64": "complex numbers",
        "F8_E4M3FNUZ": "float8 in a layout that only some accelerators use",
        "F8_E5M2FNUZ": "float8 in a layout that only some accelerators use",
    }
)
"""Dtypes that safetensors defines and Dovetail refuses, with what they hold."""

_SHORT_NAMES: Final = {
    "half": "F16",
    "fp16": "F16",
    "bf16": "BF16",
    "float": "F32",
    "fp32": "F32",
    "double": "F64",
    "fp64": "F64",
    "fp8_e4m3": "F8_E4M3",
    "float8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
}
_SPELLINGS: Final[Mapping[str, DType]] = MappingProxyType(
    {dtype.torch_name: dtype for dtype in _TABLE}
    | {dtype.name.lower(): dtype for dtype in _TABLE}
    | {spelling: DTYPES[name] for spelling, name in _SHORT_NAMES.items()}
)


def parse_dtype(text: str) -> DType:
    """Find the dtype that a user means.

    Parameters
    ----------
    text
        Any usual spelling, in any case: ``bfloat16``, ``bf16``, ``torch.bfloat16``, ``half``, ``F32``.

    Raises
    ------
    DTypeNameError
        If `text` names no dtype; the message suggests the nearest one.

    """
    key = text.strip().lower().removeprefix("torch.")
    if key in _SPELLINGS:
        return _SPELLINGS[key]
    near = difflib.get_close_matches(key, _SPELLINGS, n=1)
    raise DTypeNameError(
        f"unknown dtype {text!r}",
        "one of " + ", ".join(dtype.torch_name for dtype in _TABLE if dtype.mergeable),
        f"did you mean {near[0]!r}?" if near else "correct the name",
    )


def to_numpy(dtype: DType) -> np.dtype[Any]:
    """Return the little-endian numpy dtype; bfloat16 and float8 come from `ml_dtypes`."""
    import numpy as np

    if dtype.name == "BF16" or dtype.name.startswith("F8_"):
        import ml_dtypes  # costs 40 ms to import, so only where one of its types is asked for

        native: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.zarr_name))
        return native
    return np.dtype(dtype.zarr_name).newbyteorder("<")

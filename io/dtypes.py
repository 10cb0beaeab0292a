"""The table of the dtypes that checkpoints can have.

A further dtype that is only stored needs one row: code for safetensors headers, Zarr metadata, numpy and comparisons
reads the table. A dtype that is merged also needs kernels that decode and encode it, and has their code in its row.
"""

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
    """One element type, with its names in every format and library."""

    name: str
    """Name in a safetensors header, such as ``BF16``."""
    itemsize: int
    """Size of one element in bytes."""
    zarr_name: str
    """Name in Zarr v3 metadata, and of the attribute of `numpy` or `ml_dtypes`."""
    torch_name: str
    """Name in ``torch``, in recipes, and in the ``torch_dtype`` of a ``config.json``."""
    numpy_kind: str = ""
    """Kind and size in numpy and in Zarr v2 metadata, such as ``f4``; empty if the type is one of `ml_dtypes`."""
    kernel_code: int = -1
    """Number that stands for the type in merge kernels; -1 for a type that is copied and never merged."""
    spellings: tuple[str, ...] = ()
    """Further names that users may write."""
    packed_bits: int = 0
    """Bits of an element where several share a byte; 0 if each has bytes to itself. `itemsize` is then that of a byte,
    and a tensor's source counts bytes."""

    def __str__(self) -> str:
        return self.torch_name

    @property
    def mergeable(self) -> bool:
        """Whether tensors of this type, which is then a floating-point type, are merged rather than copied."""
        return self.kernel_code >= 0

    @property
    def is_integer(self) -> bool:
        """Whether the elements are whole numbers."""
        return self.numpy_kind[:1] in ("i", "u")


_TABLE: Final = (
    DType("BOOL", 1, "bool", "bool", "b1"),
    DType("U8", 1, "uint8", "uint8", "u1"),
    DType("I8", 1, "int8", "int8", "i1"),
    DType("I16", 2, "int16", "int16", "i2"),
    DType("U16", 2, "uint16", "uint16", "u2"),
    DType("I32", 4, "int32", "int32", "i4"),
    DType("U32", 4, "uint32", "uint32", "u4"),
    DType("I64", 8, "int64", "int64", "i8"),
    DType("U64", 8, "uint64", "uint64", "u8"),
    DType("F16", 2, "float16", "float16", "f2", 1, ("half", "fp16")),
    DType("BF16", 2, "bfloat16", "bfloat16", "", 2),
    DType("F32", 4, "float32", "float32", "f4", 0, ("float", "fp32")),
    DType("F64", 8, "float64", "float64", "f8", 3, ("double", "fp64")),
    DType("F8_E4M3", 1, "float8_e4m3fn", "float8_e4m3fn", "", 4, ("fp8_e4m3", "float8_e4m3")),
    DType("F8_E5M2", 1, "float8_e5m2", "float8_e5m2", "", 5, ("fp8_e5m2",)),
)

DTYPES: Final[Mapping[str, DType]] = MappingProxyType({dtype.name: dtype for dtype in _TABLE})
"""Every dtype that Dovetail reads, by its safetensors name."""

MERGEABLE: Final = tuple(sorted((dtype for dtype in _TABLE if dtype.mergeable), key=lambda dtype: dtype.kernel_code))
"""The dtypes that merges compute with, in the order of the kernels' codes."""

QUANTISED_DTYPES: Final[Mapping[str, DType]] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            DType("F8_E8M0", 1, "float8_e8m0fnu", "float8_e8m0fnu"),
            DType("F4", 1, "float4_e2m1fn", "float4_e2m1fn", packed_bits=4),
            DType("F6_E2M3", 1, "float6_e2m3fn", "float6_e2m3fn", packed_bits=6),
            DType("F6_E3M2", 1, "float6_e3m2fn", "float6_e3m2fn", packed_bits=6),
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
"""Dtypes that safetensors defines and Dovetail refuses, each with what its elements are."""

_SPELLINGS: Final[Mapping[str, DType]] = MappingProxyType(
    {spelling: dtype for dtype in _TABLE for spelling in (dtype.torch_name, dtype.name.lower(), *dtype.spellings)}
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
    """Return the little-endian numpy dtype, which for types that numpy lacks comes from `ml_dtypes`."""
    import numpy as np

    if not dtype.numpy_kind:
        import ml_dtypes  # takes 40 ms to import, so that only those who need it wait

        native: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.zarr_name))
        return native
    return np.dtype(f"<{dtype.numpy_kind}")

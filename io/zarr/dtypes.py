"""Zarr data types for what numpy lacks, such as bfloat16 and float8: arrays of checkpoint weights open like any others.

Each type of `ml_dtypes` in the table of dtypes gets one.

Importing this module registers the types. The entry points ``zarr.data_type`` would not do, because zarr-python 3.1
collects them but never loads them.

The names ``bfloat16`` and ``float8_e5m2`` are those of https://github.com/zarr-developers/zarr-extensions. The float8
that checkpoints call F8_E4M3 has no infinities; numpy, PyTorch and TensorStore call it ``float8_e4m3fn``, which the
registry does not list yet. The registry's ``float8_e4m3`` must not be used here: it is the variant *with* infinities,
in which the same bits stand for other numbers.

Zarr v2 metadata (``"dtype": "bfloat16"``, as T5X and NeMo write it) can be read. zarr-python cannot write v2
chunks of these types: its v2 codecs need the buffer protocol, which numpy does not have for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self, TypeGuard, overload

import ml_dtypes
import numpy as np
from zarr.core.common import JSON, ZarrFormat
from zarr.core.dtype.common import DTypeConfig_V2, DTypeJSON, HasEndianness, HasItemSize
from zarr.core.dtype.wrapper import TBaseDType
from zarr.dtype import DataTypeValidationError, ZDType, data_type_registry

from dovetail.io.dtypes import DTYPES, DType

_SPECIAL: Final[Mapping[str, float]] = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}


@dataclass(frozen=True, kw_only=True)
class _MLFloat(ZDType[np.dtype[Any], np.generic], HasItemSize):
    """What the types have in common."""

    dtype_cls: ClassVar[type[np.dtype[Any]]]
    _zarr_v3_name: ClassVar[str]
    _scalar: ClassVar[type[Any]]

    @property
    def item_size(self) -> int:
        """Size of one element in bytes."""
        return np.dtype(self._scalar).itemsize

    @classmethod
    def from_native_dtype(cls, dtype: TBaseDType) -> Self:
        """Wrap a numpy dtype."""
        if cls._check_native_dtype(dtype):
            return cls()
        raise DataTypeValidationError(f"Invalid data type: {dtype}. Expected {cls._zarr_v3_name}.")

    def to_native_dtype(self) -> np.dtype[Any]:
        """Return the numpy dtype."""
        return np.dtype(self._scalar)

    @classmethod
    def _from_json_v2(cls, data: DTypeJSON) -> Self:
        if isinstance(data, Mapping) and data == {"name": cls._zarr_v3_name, "object_codec_id": None}:
            return cls()
        raise DataTypeValidationError(f"Invalid JSON for {cls._zarr_v3_name}: {data!r}.")

    @classmethod
    def _from_json_v3(cls, data: DTypeJSON) -> Self:
        if data == cls._zarr_v3_name:
            return cls()
        if isinstance(data, Mapping) and {"configuration": {}, **data} == {
            "name": cls._zarr_v3_name,
            "configuration": {},
        }:
            return cls()
        raise DataTypeValidationError(f"Invalid JSON for {cls._zarr_v3_name}: {data!r}.")

    @overload
    def to_json(self, zarr_format: Literal[2]) -> DTypeConfig_V2[str, None]: ...

    @overload
    def to_json(self, zarr_format: Literal[3]) -> str: ...

    def to_json(self, zarr_format: ZarrFormat) -> DTypeConfig_V2[str, None] | str:
        """Return the metadata of the type: its name, in v3 and also in v2, where TensorStore and T5X write it too."""
        if zarr_format == 2:
            return {"name": self._zarr_v3_name, "object_codec_id": None}
        return self._zarr_v3_name

    def _check_scalar(self, data: object) -> TypeGuard[float]:
        try:
            float(data)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return False
        return True

    def cast_scalar(self, data: object) -> np.generic:
        """Convert a number to a scalar of this type."""
        if isinstance(data, self._scalar):  # converted by value, a NaN would lose its payload
            return self._from_bits(self._to_bits(data))
        if not self._check_scalar(data):
            raise TypeError(f"Cannot convert {data!r} of {type(data)} to {self._zarr_v3_name}.")
        return self._from_float(float(data))

    def default_scalar(self) -> np.generic:
        """Return zero."""
        return self._from_bits(0)

    def from_json_scalar(self, data: JSON, *, zarr_format: ZarrFormat) -> np.generic:
        """Decode a fill value: a number, ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, or bits ``"0x..."``."""
        if isinstance(data, str) and data.startswith("0x") and len(data) == 2 + 2 * self.item_size:
            return self._from_bits(int(data, 16))
        if isinstance(data, str) and data in _SPECIAL:
            return self._from_float(_SPECIAL[data])
        if isinstance(data, int | float) and not isinstance(data, bool):
            return self._from_float(float(data))
        raise TypeError(f"Invalid fill value for {self._zarr_v3_name}: {data!r}.")

    def to_json_scalar(self, data: object, *, zarr_format: ZarrFormat) -> float | str:
        """Encode a fill value; in v3, a NaN with a payload is encoded as its bits, which v2 has no way to express."""
        scalar = self.cast_scalar(data)
        value = float(scalar)
        if math.isnan(value):
            bits = self._to_bits(scalar)
            return "NaN" if bits == self._nan_bits() or zarr_format == 2 else f"0x{bits:0{2 * self.item_size}x}"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value

    def _from_float(self, value: float) -> np.generic:
        scalar: np.generic = self._scalar(value)
        if math.isinf(value) and not math.isinf(float(scalar)):
            raise ValueError(f"Invalid value for {self._zarr_v3_name}: {value}. The type has no infinity.")
        return scalar

    @classmethod
    def _nan_bits(cls) -> int:
        """Give the bits of the usual NaN."""
        return cls._to_bits(cls._scalar(math.nan))

    def _from_bits(self, bits: int) -> np.generic:
        scalar: np.generic = np.frombuffer(bits.to_bytes(self.item_size, "little"), self._scalar)[0]
        return scalar

    @staticmethod
    def _to_bits(scalar: np.generic) -> int:
        return int.from_bytes(scalar.tobytes(), "little")


@dataclass(frozen=True, kw_only=True)
class BFloat16(_MLFloat, HasEndianness):
    """``bfloat16``: the upper half of a float32, and the only one of these types that has a byte order."""

    dtype_cls = type(np.dtype(ml_dtypes.bfloat16))
    _zarr_v3_name = "bfloat16"
    _scalar = ml_dtypes.bfloat16

    @classmethod
    def from_native_dtype(cls, dtype: TBaseDType) -> Self:
        """Wrap a numpy dtype."""
        if cls._check_native_dtype(dtype):
            return cls(endianness="big" if dtype.byteorder == ">" else "little")
        raise DataTypeValidationError(f"Invalid data type: {dtype}. Expected {cls._zarr_v3_name}.")

    def to_native_dtype(self) -> np.dtype[Any]:
        """Return the numpy dtype."""
        native: np.dtype[Any] = np.dtype(self._scalar)
        return native.newbyteorder(">" if self.endianness == "big" else "<")

    @overload
    def to_json(self, zarr_format: Literal[2]) -> DTypeConfig_V2[str, None]: ...

    @overload
    def to_json(self, zarr_format: Literal[3]) -> str: ...

    def to_json(self, zarr_format: ZarrFormat) -> DTypeConfig_V2[str, None] | str:
        """Return the metadata of the type.

        Raises
        ------
        ValueError
            The type is big endian, which v2 metadata has no way to express.

        """
        if zarr_format == 2 and self.endianness == "big":
            raise ValueError("Invalid byte order for bfloat16 in Zarr v2: big. Expected little.")
        return super().to_json(zarr_format)


def define(dtype: DType) -> type[_MLFloat]:
    """Make the data type of a dtype of `ml_dtypes` that takes one byte, called ``Float8E5M2`` for ``float8_e5m2``."""
    head, _, tail = dtype.zarr_name.partition("_")
    scalar = getattr(ml_dtypes, dtype.zarr_name)
    return type(
        head.capitalize() + tail.upper(),
        (_MLFloat,),
        {
            "__doc__": f"``{dtype.zarr_name}``, one byte an element.",
            "__module__": __name__,
            "_scalar": scalar,
            "_zarr_v3_name": dtype.zarr_name,
            "dtype_cls": type(np.dtype(scalar)),
        },
    )


DATA_TYPES: Final[Mapping[str, type[_MLFloat]]] = {
    dtype.zarr_name: BFloat16 if dtype.name == "BF16" else define(dtype)
    for dtype in DTYPES.values()
    if not dtype.numpy_kind
}
"""The data type of each dtype of `ml_dtypes`, by its name in Zarr metadata."""

for _name, _data_type in DATA_TYPES.items():
    globals()[_data_type.__name__] = _data_type  # pickle and the distribution's entry points look for it here
    data_type_registry.register(_name, _data_type)

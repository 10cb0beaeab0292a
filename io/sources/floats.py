"""Decoding stored floating-point elements to float32: exactly, except float64, which is rounded to nearest even."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, DType, to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray


_STEP: Final = 2**13
"""Elements of one byte that are decoded at a time."""


class ComputedFloats:
    """What all sources have in common that compute float32 elements while they are read: members of `Source`."""

    __slots__ = ()

    @property
    def itemsize(self) -> int:
        """Bytes of an element, a float32."""
        return 4

    @property
    def copies(self) -> bool:
        """True: `read` always makes a new array."""
        return True

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give none: elements are computed."""


def read_only_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Give the bytes of computed elements, which nobody may change."""
    raw: NDArray[np.uint8] = values.view(np.uint8)
    raw.flags.writeable = False
    return raw


def decode_into(raw: NDArray[np.uint8], dtype: DType, out: NDArray[np.float32]) -> None:
    """Decode stored elements of a floating-point dtype to float32.

    Parameters
    ----------
    raw
        The bytes of the elements, flat and contiguous.
    dtype
        The floating-point dtype of the elements.
    out
        Receives one value for each element.

    """
    if dtype.name == "BF16":  # the upper half of a float32
        np.left_shift(raw.view(np.uint16), np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
    elif dtype.itemsize == 1:
        values = _small_floats(dtype.name)
        for start in range(0, raw.size, _STEP):  # numpy makes an index of 8 bytes of every element
            part = slice(start, start + _STEP)
            np.take(values, raw[part], out=out[part], mode="clip")  # in other modes numpy makes a copy of the output
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(out, raw.view(to_numpy(dtype)), casting="same_kind")


@functools.cache
def _small_floats(name: str) -> NDArray[np.float32]:
    """Give the value of every byte in one of the float8 dtypes, the one that has only exponents too."""
    return np.arange(256, dtype=np.uint8).view(to_numpy(DTYPES.get(name) or QUANTISED_DTYPES[name])).astype(np.float32)

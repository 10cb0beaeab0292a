"""Ascending whole numbers in a byte or two each, where they lie close together.

Numbers with equal higher bits stand together, so that those bits need not be stored with each of them: it is enough to
know where each of their values begins (the quasi-succinct lists of Elias, 1974, https://doi.org/10.1145/321812.321820,
and Fano, 1971, with whole bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32}
"""What stores the lowest bits, by their number."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Ascending numbers, some of which may be equal."""

    least: int
    """The first number; 0 if there are none."""
    begins: NDArray[np.uint32]
    """For each value of the higher bits, from 0 on, how many numbers lie below it; and how many there are."""
    lowest: NDArray[Any]
    """The lowest bits of every number, above the first one: 8, 16 or 32 of them, as the dtype says."""

    @property
    def nbytes(self) -> int:
        """Memory of both arrays."""
        return self.begins.nbytes + self.lowest.nbytes

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.lowest.size

    def below(self, number: int) -> int:
        """Count the numbers below another one."""
        high, low = divmod(number - self.least, 1 << 8 * self.lowest.itemsize)
        if high < 0:
            return 0
        if high + 1 >= self.begins.size:
            return self.size
        begin, end = int(self.begins[high]), int(self.begins[high + 1])
        return begin + int(np.searchsorted(self.lowest[begin:end], self.lowest.dtype.type(low)))


def packed_bytes(count: int, span: int) -> int:
    """Give the bytes of so many packed numbers, of which the last is `span` above the first."""
    return min(_bytes(count, span, bits) for bits in _DTYPES)


def pack(numbers: NDArray[np.uint32]) -> Packed:
    """Pack ascending numbers."""
    if not numbers.size:
        return NOTHING
    least, span = int(numbers[0]), int(numbers[-1]) - int(numbers[0])
    bits = min(_DTYPES, key=lambda bits: _bytes(numbers.size, span, bits))
    above = numbers - np.uint32(least)
    edges = np.arange((span >> bits) + 2, dtype=np.uint64) << np.uint64(bits)
    begins = np.searchsorted(above, edges).astype(np.uint32)
    return Packed(least, begins, above.astype(_DTYPES[bits]))


def _bytes(count: int, span: int, bits: int) -> int:
    return count * bits // 8 + 4 * ((span >> bits) + 2)


NOTHING = Packed(0, np.zeros(1, np.uint32), np.empty(0, np.uint8))
"""No numbers."""

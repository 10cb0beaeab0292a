"""Packing what a model keeps of a tensor into marks of one bit and the values at the marks; `stored` unpacks it."""

from __future__ import annotations

import numpy as np
from numba import njit

_ONE = np.uint8(1)


@njit(nogil=True, cache=True)
def pack(marks: np.ndarray, stored: np.ndarray, first: int, bits: np.ndarray, values: np.ndarray, count: int) -> int:
    """Add a run of elements to the packed elements before it.

    Parameters
    ----------
    marks : uint8[:]
        1 where the model keeps an element of the run, else 0.
    stored : uint8[:]
        Stored bytes of the run.
    first : int
        Index of the run's first element among those that are packed.
    bits : uint8[:]
        Marks of one bit, the lowest bit of a byte first; the kernel sets those of the elements that are kept.
    values : uint8[:]
        Receives the stored bytes of the elements that are kept, after those of the `count` that it has.
    count : int
        How many elements before the run are kept.

    Returns
    -------
    int
        How many elements are kept so far.

    """
    size = len(stored) // max(1, len(marks))
    for i in range(len(marks)):
        if marks[i] != 0:
            place = first + i
            bits[place >> 3] |= np.uint8(_ONE << np.uint8(place & 7))
            for byte in range(size):
                values[count * size + byte] = stored[i * size + byte]
            count += 1
    return count

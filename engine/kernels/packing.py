"""Packing what a model keeps of a tensor into marks of one bit and the values at the marks; `stored` unpacks it."""

from __future__ import annotations

import numpy as np
from numba import njit

_ONE = np.uint8(1)
_BYTE = 8


@njit(nogil=True, cache=True)
def pack_bits(marks, first, bits):  # type: ignore[no-untyped-def]
    """Set the bits of a run, those of whole bytes at once.

    Parameters
    ----------
    marks : uint8[:]
        1 where the bit is to be set, else 0.
    first : int
        Place of the run's first bit.
    bits : uint8[:]
        Marks of one bit, the lowest bit of a byte first. Those of the run are 0 before.

    """
    head = min(len(marks), -first % _BYTE)
    whole = (len(marks) - head) // _BYTE
    for i in range(head):
        bits[(first + i) >> 3] |= np.uint8(np.uint8(marks[i] != 0) << np.uint8((first + i) & 7))
    begin = (first + head) >> 3
    # Slices of their own, because LLVM makes vector code of loops that count from 0.
    middle, target = marks[head : head + whole * _BYTE], bits[begin : begin + whole]
    for place in range(whole):
        byte = np.uint8(0)
        for bit in range(_BYTE):
            byte |= np.uint8(np.uint8(middle[place * _BYTE + bit] != 0) << np.uint8(bit))
        target[place] = byte
    for i in range(head + whole * _BYTE, len(marks)):
        bits[(first + i) >> 3] |= np.uint8(np.uint8(marks[i] != 0) << np.uint8((first + i) & 7))


@njit(nogil=True, cache=True)
def _pack_values(marks, stored, values, count):  # type: ignore[no-untyped-def]
    """Copy the values at the marks, after those that are there."""
    # Every value is written, and the place moves on only after a value that is kept: no branch can be mispredicted.
    for i in range(len(marks)):
        if count < len(values):
            values[count] = stored[i]
        count += np.int64(marks[i] != 0)
    if count < len(values):
        values[count] = 0
    return count


@njit(nogil=True, cache=True)
def pack(marks, stored, first, bits, values, count):  # type: ignore[no-untyped-def]
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
        Receives the stored bytes of the elements that are kept, after those of the `count` that it has; what follows
        them is zero.
    count : int
        How many elements before the run are kept.

    Returns
    -------
    int
        How many elements are kept so far.

    """
    if not len(marks):
        return count
    size = len(stored) // len(marks)
    pack_bits(marks, first, bits)
    if size == 1:
        return _pack_values(marks, stored, values, count)
    if size == 2:
        return _pack_values(marks, stored.view(np.uint16), values.view(np.uint16), count)
    if size == 4:
        return _pack_values(marks, stored.view(np.uint32), values.view(np.uint32), count)
    return _pack_values(marks, stored.view(np.uint64), values.view(np.uint64), count)

"""Boxes of elements that lie at regular distances, gathered from few long stretches of what holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SPAN_BYTES: Final = 2**20
"""Longest stretch, in bytes, that is read at once; one may be twice as long, where a row reaches into the next."""

_SHORT_SPAN_BYTES: Final = 2**16
"""Stretches of at most this many bytes are read whole, however little of them is needed."""

_WASTE: Final = 4
"""Longer stretches are read whole if at least one in this many of their bytes is needed."""


def span_bytes(sizes: Iterable[int], steps: Iterable[int], itemsize: int) -> int:
    """Count the bytes from the first byte of the first element to the last byte of the last element.

    Parameters
    ----------
    sizes
        Elements along each dimension, one at least.
    steps
        Bytes between neighbours along each dimension.
    itemsize
        Bytes of an element.

    """
    return sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) + itemsize


def gather(
    out: NDArray[np.uint8],
    first_byte: int,
    steps: Sequence[int],
    read: Callable[[int, int], NDArray[np.uint8]],
) -> None:
    """Fill a box of elements, taking the dimension with the largest steps first.

    Parameters
    ----------
    out
        The box: its dimensions, and the bytes of an element.
    first_byte
        Where its first element lies.
    steps
        Bytes between neighbours along each dimension of the box.
    read
        Gives a number of bytes from a byte on.

    """
    itemsize = out.shape[-1]
    order = sorted(range(len(steps)), key=lambda axis: (-steps[axis], -out.shape[axis]))
    box = out.transpose(*order, len(order))
    steps = [steps[axis] for axis in order]
    for part, begin, inner in _stretches(box, first_byte, steps, itemsize):
        raw = read(begin, span_bytes(part.shape[:-1], inner, itemsize))
        part[...] = as_strided(raw, part.shape, (*inner, 1))


def _stretches(
    box: NDArray[np.uint8], first_byte: int, steps: Sequence[int], itemsize: int
) -> Iterator[tuple[NDArray[np.uint8], int, Sequence[int]]]:
    """Cut a box into parts that are read in one stretch each."""
    sizes = box.shape[:-1]
    inner = len(sizes)  # the dimensions from here on are read in one stretch
    while inner and _worth_reading(sizes[inner - 1 :], steps[inner - 1 :], itemsize):
        inner -= 1
    if inner and inner == len(sizes):  # even one dimension is too long: it is cut
        inner -= 1
    most = max(1, SPAN_BYTES // max(1, steps[inner])) if inner < len(sizes) else 1
    for index in np.ndindex(*sizes[:inner]):
        begin = first_byte + sum(position * step for position, step in zip(index, steps, strict=False))
        part = box[index]
        if span_bytes(sizes[inner:], steps[inner:], itemsize) <= SPAN_BYTES:
            yield part, begin, steps[inner:]
            continue
        for first in range(0, sizes[inner], most):
            yield part[first : first + most], begin + first * steps[inner], steps[inner:]


def _worth_reading(sizes: Sequence[int], steps: Sequence[int], itemsize: int) -> bool:
    span = span_bytes(sizes, steps, itemsize)
    return span <= _SHORT_SPAN_BYTES or (span <= SPAN_BYTES and span <= _WASTE * math.prod(sizes) * itemsize)

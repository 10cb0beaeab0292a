"""Reading the difference of two stored tensors, by chunks of whole rows, on a grid that their shape alone decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import NonFiniteError
from dovetail.io.sources.floats import decode_into

CHUNK_ELEMENTS = 1 << 20
"""Elements of a chunk, unless a row has more."""

COMPARING_BYTES = CHUNK_ELEMENTS * 56 + 4 * PAGE_SLACK_BYTES
"""Most memory that `equal` takes: windows of at most 8 bytes an element and copies, both decoded, the difference."""

_STEP_BYTES = 1 << 20

Progress = Callable[[int], None]
"""Receives the bytes read since the last call."""


def equal(one: TensorInfo, other: TensorInfo, progress: Progress) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their dtypes."""
    floats = one.dtype.mergeable and other.dtype.mergeable
    if not floats and one.dtype != other.dtype:
        return False
    for start in range(0, one.length, CHUNK_ELEMENTS):
        stop = min(one.length, start + CHUNK_ELEMENTS)
        _populate((one, other), start, stop)
        if floats:
            same = not _difference(one, other, start, stop).any()
        else:
            same = same_bytes(one.source.read(start, stop), other.source.read(start, stop))
        _release((one, other), start, stop)
        progress((stop - start) * (one.dtype.itemsize + other.dtype.itemsize))
        if not same:
            return False
    return True


def same_bytes(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two arrays of one size are equal, compared step by step: marks of all that differs would take as much."""
    return all(
        np.array_equal(one[start : start + _STEP_BYTES], other[start : start + _STEP_BYTES])
        for start in range(0, one.size, _STEP_BYTES)
    )


def rows_of_chunk(pair: TensorPair) -> int:
    """Give the number of rows of every chunk but the last."""
    return max(1, min(pair.rows, CHUNK_ELEMENTS // pair.columns))


def read_chunk(pair: TensorPair, first: int) -> NDArray[np.float64]:
    """Give the difference of the chunk of rows that begins with row `first`, in a new array."""
    assert pair.base is not None
    both, columns, step = (pair.tuned, pair.base), pair.columns, rows_of_chunk(pair)
    start, stop = first * columns, min(pair.rows, first + step) * columns
    for info in both:
        info.source.prefetch(stop, min(info.length, stop + step * columns))
    _populate(both, start, stop)
    chunk = _difference(*both, start, stop)
    _release(both, start, stop)
    return chunk.reshape(-1, columns)


def _difference(one: TensorInfo, other: TensorInfo, start: int, stop: int) -> NDArray[np.float64]:
    """Subtract elements ``start:stop`` exactly, but for the rounding of float64."""
    found = _decoded(one, start, stop).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite elements are found by the sum of squares
        found -= _decoded(other, start, stop)
    return found


def _decoded(info: TensorInfo, start: int, stop: int) -> NDArray[np.float32] | NDArray[np.float64]:
    raw = info.source.read(start, stop)
    if info.dtype.name == "F64":
        return raw.view(np.float64)
    values = np.empty(stop - start, np.float32)
    decode_into(raw, info.dtype, values)
    return values


def _populate(infos: Sequence[TensorInfo], start: int, stop: int) -> None:
    """Bring elements into memory: touching pages that cannot be read would kill the process."""
    for info in infos:
        info.source.populate(start, stop)


def _release(infos: Sequence[TensorInfo], start: int, stop: int) -> None:
    for info in infos:
        info.source.release(start, stop)


def check_finite(pair: TensorPair, names: tuple[str, str]) -> None:
    """Say where a pair's first NaN or infinity is."""
    assert pair.base is not None
    for name, info in zip(names, (pair.tuned, pair.base), strict=True):
        for start in range(0, info.length, CHUNK_ELEMENTS):
            stop = min(info.length, start + CHUNK_ELEMENTS)
            _populate((info,), start, stop)
            values = _decoded(info, start, stop)
            found = np.flatnonzero(~np.isfinite(values))
            if found.size:
                raise NonFiniteError(
                    f"{name}: tensor {info.name!r} holds {values[found[0]]} at element {start + int(found[0])}",
                    "finite numbers",
                    f"repair the checkpoint, or leave the tensor out with --exclude '{pair.name}'",
                )
            _release((info,), start, stop)

"""Dot products of all pairs of several vectors at once, with the bits that `sums.sum_products` gives each pair.

The order of additions is that of `sums`: rows of 128 elements, of which each of 32 partial sums ("lanes") takes four,
then the lanes in order, then the elements that do not fill a row. Here eight lanes of every pair stay in registers for
all rows, and an element is loaded and widened once for several pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import F32, F64, I64, data_of, integer, load, loop, multiply_add, offset, store
from dovetail.engine.kernels.sums import LANES, ROW, TILE

_GROUP: Final = 8
"""Lanes of a pair that stay in registers."""

_WIDE = ir.VectorType(F64, _GROUP)


def _sweep(builder: Any, vectors: Sequence[Any], pairs: Sequence[tuple[int, int]], rows: Any, sums: list[Any]) -> None:
    """Generate the loops that add the products of pairs of vectors, all given by addresses, to their lanes."""
    used = sorted({vector for pair in pairs for vector in pair})

    def add_group(group: Any, nothing: list[Any]) -> list[Any]:
        low = builder.mul(group, integer(I64, _GROUP))

        def add_row(row: Any, found: list[Any]) -> list[Any]:
            first = builder.add(low, builder.mul(row, integer(I64, ROW)))
            places = [offset(builder, first, part) for part in range(0, ROW, LANES)]
            wide = {
                vector: [builder.fpext(load(builder, vectors[vector], at, F32, _GROUP, 4), _WIDE) for at in places]
                for vector in used
            }
            added = []
            for (i, j), before in zip(pairs, found, strict=True):
                total = builder.fmul(wide[i][0], wide[j][0])
                for a, b in zip(wide[i][1:], wide[j][1:], strict=True):
                    total = multiply_add(builder, a, b, total)
                added.append(builder.fadd(before, total))
            return added

        state = [load(builder, each, low, F64, _GROUP, 8) for each in sums]
        for each, found in zip(sums, loop(builder, rows, state, add_row), strict=True):
            store(builder, found, each, low, 8)
        return nothing

    loop(builder, integer(I64, LANES // _GROUP), [], add_group)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, pairs: Sequence[tuple[int, int]]) -> Any:
    """Generate the code of `_triangle` or `_rectangle`, whose arguments but the last three are vectors."""
    *kinds, _, lanes_kind, _ = signature.args
    *groups, rows, lanes, places = arguments
    unpack_tuple: Any = cgutils.unpack_tuple
    vectors = [
        data_of(context, builder, kind.dtype, array)
        for kind, group in zip(kinds, groups, strict=True)
        for array in unpack_tuple(builder, group, kind.count)
    ]
    start = data_of(context, builder, lanes_kind, lanes)
    sums = [
        builder.gep(start, [builder.mul(place, integer(I64, LANES))])
        for place in unpack_tuple(builder, places, len(pairs))
    ]
    _sweep(builder, vectors, pairs, rows, sums)
    return context.get_dummy_value()


@intrinsic
def _emit_triangle(typing, vectors, rows, lanes, places):  # type: ignore[no-untyped-def]
    """Add the products of each vector of a tuple with itself and those before it to rows `places` of `lanes`."""
    pairs = [(i, j) for i in range(vectors.count) for j in range(i + 1)]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, pairs)

    return types.void(vectors, types.int64, lanes, places), generate


@intrinsic
def _emit_rectangle(typing, first, second, rows, lanes, places):  # type: ignore[no-untyped-def]
    """Add the products of each vector of one tuple with each of another to rows `places` of `lanes`."""
    pairs = [(i, first.count + j) for i in range(first.count) for j in range(second.count)]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, pairs)

    return types.void(first, second, types.int64, lanes, places), generate


_triangle: Final[Any] = _emit_triangle
_rectangle: Final[Any] = _emit_rectangle


@njit(nogil=True, cache=True, inline="always")
def _place(i: int, j: int) -> int:
    """Give the place of the pair (i, j), with j at most i, among the lanes."""
    return i * (i + 1) // 2 + j


@njit(nogil=True, cache=True)
def _add_by_blocks(vectors: np.ndarray, rows: int, lanes: np.ndarray) -> None:
    count = len(vectors)
    if count == 3:  # all products of three vectors at once are faster than one vector by two and one by itself
        _triangle((vectors[0], vectors[1], vectors[2]), rows, lanes, (0, 1, 2, 3, 4, 5))
        return
    for i in range(0, count - 1, 2):
        one, two = vectors[i], vectors[i + 1]
        _triangle((one, two), rows, lanes, (_place(i, i), _place(i + 1, i), _place(i + 1, i + 1)))
        for j in range(0, i, 2):
            places = _place(i, j), _place(i, j + 1), _place(i + 1, j), _place(i + 1, j + 1)
            _rectangle((one, two), (vectors[j], vectors[j + 1]), rows, lanes, places)
    if count % 2:
        last = count - 1
        _triangle((vectors[last],), rows, lanes, (_place(last, last),))
        for j in range(0, last, 2):
            both = vectors[j], vectors[j + 1]
            _rectangle((vectors[last],), both, rows, lanes, (_place(last, j), _place(last, j + 1)))


def _add_plainly(vectors: np.ndarray, rows: int, lanes: np.ndarray) -> None:
    wide = vectors[:, : rows * ROW].astype(np.float64).reshape(len(vectors), rows, ROW // LANES, LANES)
    for i in range(len(vectors)):
        for j in range(i + 1):
            terms = wide[i] * wide[j]
            for row in terms:
                lanes[_place(i, j)] += row[0] + row[1] + row[2] + row[3]


_add_rows: Final[Any] = _add_plainly if settings.DISABLE_JIT else _add_by_blocks


def lane_bytes(vectors: int) -> int:
    """Compute the bytes of the lanes of all pairs of so many vectors."""
    return 4 * LANES * vectors * (vectors + 1)


@njit(nogil=True, cache=True)
def add_rows(vectors: np.ndarray, lanes: np.ndarray) -> None:
    """Add the products of all pairs of vectors, as far as the vectors fill rows of 128 elements, to their lanes.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each line; the elements of a line are contiguous.
    lanes : float64[pairs, LANES]
        Partial sums of the lower triangle of the matrix, row by row, to which the kernel adds.

    """
    _add_rows(vectors, vectors.shape[1] // ROW, lanes)


@njit(nogil=True, cache=True)
def add_totals(vectors: np.ndarray, lanes: np.ndarray, out: np.ndarray) -> None:
    """Add up the lanes of each pair, then the products of the elements that `add_rows` has left.

    Parameters
    ----------
    vectors : float32[:, :]
        The vectors, or the last parts of them that `add_rows` was given.
    lanes : float64[pairs, LANES]
        What `add_rows` has added up; zero when the kernel returns.
    out : float64[:, :]
        A matrix; the kernel adds to its lower triangle.

    """
    whole, end = vectors.shape[1] // ROW * ROW, vectors.shape[1]
    for i in range(len(vectors)):
        for j in range(i + 1):
            total, sums = 0.0, lanes[_place(i, j)]
            for lane in range(LANES):
                total += sums[lane]
                sums[lane] = 0.0
            first, second = vectors[i], vectors[j]
            for k in range(whole, end):
                total += np.float64(first[k]) * np.float64(second[k])
            out[i, j] += total


@njit(nogil=True, cache=True)
def mirror(out: np.ndarray) -> None:
    """Fill in the upper triangle of a symmetric matrix, of which the lower is there."""
    for i in range(len(out)):
        for j in range(i):
            out[j, i] = out[i, j]


@njit(nogil=True, cache=True)
def gram(vectors: np.ndarray, count: int, out: np.ndarray) -> None:
    """Compute the dot product of every pair of vectors, tile by tile.

    Parameters
    ----------
    vectors : float32[:, :]
        One vector in each row.
    count : int
        Elements of each row that take part, from the first on.
    out : float64[:, :]
        Receives the symmetric matrix of dot products.

    """
    lanes = np.zeros((_place(len(vectors), 0), LANES))
    out[:] = 0.0
    for start in range(0, count, TILE):
        part = vectors[:, start : min(start + TILE, count)]
        add_rows(part, lanes)
        add_totals(part, lanes, out)
    mirror(out)

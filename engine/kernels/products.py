"""Dot products of all pairs of several vectors at once, with the bits that `sums.sum_products` gives each pair.

The order of additions is that of `sums`: rows of 128 elements, of which each of 32 partial sums ("lanes") takes four,
then the lanes in order, then the elements that do not fill a row. Here the lanes of every pair stay in registers for
all rows, and an element is loaded and widened once for several pairs. Vectors of bfloat16 or float32 are loaded as they
are stored, and made task vectors on the way; all others have to be decoded before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.convert import BF16, F32, decode
from dovetail.engine.kernels.emit import I64, data_of, integer, loop, multiply_add, offset
from dovetail.engine.kernels.halves import DOUBLES, addresses, fetch_ahead, load_halves, load_lanes, store_lanes
from dovetail.engine.kernels.sums import LANES, ROW, TILE

_AT_ONCE: Final = 3
"""Most pairs of which AVX-512's registers hold all lanes. Of more, one half is added to, and then the other."""


class _Sources(NamedTuple):
    """What is multiplied, in the code that is generated."""

    code: int
    """Dtype of all: BF16 or F32."""
    base: Any | None
    """Address of the base model's bytes, if the vectors are to become task vectors."""
    vectors: Sequence[Any]
    """Addresses of the vectors' bytes."""
    first: Any
    """Element that the first row begins with."""


def _widen(builder: Any, sources: _Sources, place: Any, halves: Sequence[int]) -> list[list[Any]]:
    """Load a run of every vector, and give the halves of it that are asked for in float64, the others as they are."""
    code, base = sources.code, sources.base
    if 0 in halves:  # what is loaded for the second time is in the cache
        for each in (*sources.vectors, *((base,) if base else ())):
            fetch_ahead(builder, code, each, place)
    origin = load_halves(builder, code, base, place) if base else None
    found = []
    for vector in sources.vectors:
        run = load_halves(builder, code, vector, place)
        if origin:
            run = [builder.fsub(*pair) for pair in zip(run, origin, strict=True)]
        found.append([builder.fpext(part, DOUBLES) if half in halves else part for half, part in enumerate(run)])
    return found


def _sweep(
    builder: Any,
    sources: _Sources,
    pairs: Sequence[tuple[int, int]],
    rows: Any,
    halves: Sequence[int],
    state: list[Any],
) -> list[Any]:
    """Generate the loop that adds the products of pairs to some halves of their lanes, given and returned in turn."""

    def add_row(row: Any, found: list[Any]) -> list[Any]:
        begin = builder.add(sources.first, builder.mul(row, integer(I64, ROW)))
        totals: list[Any] = []
        for part in range(0, ROW, LANES):
            wide = _widen(builder, sources, offset(builder, begin, part), halves)
            terms = [(wide[i][half], wide[j][half]) for half in halves for i, j in pairs]
            if totals:
                totals = [multiply_add(builder, *term, total) for term, total in zip(terms, totals, strict=True)]
            else:
                totals = [builder.fmul(*term) for term in terms]
        return [builder.fadd(before, total) for before, total in zip(found, totals, strict=True)]

    return loop(builder, rows, state, add_row)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, pairs: Sequence[tuple[int, int]]) -> Any:
    """Generate the code of `_triangle` or `_rectangle`. Arguments before the last five are tuples, of a base first."""
    kinds, lanes_kind = signature.args[:-5], signature.args[-2]
    *groups, code, first, rows, lanes, places = arguments
    base, *parts = (addresses(context, builder, *each) for each in zip(kinds, groups, strict=True))
    vectors = [vector for part in parts for vector in part]
    unpack_tuple: Any = cgutils.unpack_tuple
    start = data_of(context, builder, lanes_kind, lanes)
    sums = [
        builder.gep(start, [builder.mul(place, integer(I64, LANES))])
        for place in unpack_tuple(builder, places, len(pairs))
    ]
    is_bfloat16 = builder.icmp_signed("==", code, integer(I64, BF16))
    with builder.if_else(is_bfloat16) as branches:
        for branch, known in zip(branches, (BF16, F32), strict=True):
            with branch:
                sources = _Sources(known, base[0] if base else None, vectors, first)
                state = list(zip(*(load_lanes(builder, known, each) for each in sums), strict=True))
                found: list[Any] = []
                for halves in ((0, 1),) if len(pairs) <= _AT_ONCE else ((0,), (1,)):
                    before = [each for half in halves for each in state[half]]
                    found += _sweep(builder, sources, pairs, rows, halves, before)
                for each, *both in zip(sums, found[: len(pairs)], found[len(pairs) :], strict=True):
                    store_lanes(builder, known, both, each)
    return context.get_dummy_value()


@intrinsic
def _emit_triangle(typing, base, vectors, code, first, rows, lanes, places):  # type: ignore[no-untyped-def]
    """Add the products of each vector of a tuple with itself and those before it to rows `places` of `lanes`."""
    pairs = [(i, j) for i in range(vectors.count) for j in range(i + 1)]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, pairs)

    whole = types.int64
    return types.void(base, vectors, whole, whole, whole, lanes, places), generate


@intrinsic
def _emit_rectangle(typing, base, one, other, code, first, rows, lanes, places):  # type: ignore[no-untyped-def]
    """Add the products of each vector of one tuple with each of another to rows `places` of `lanes`."""
    pairs = [(i, one.count + j) for i in range(one.count) for j in range(other.count)]

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, pairs)

    whole = types.int64
    return types.void(base, one, other, whole, whole, whole, lanes, places), generate


_triangle: Final[Any] = _emit_triangle
_rectangle: Final[Any] = _emit_rectangle


@njit(nogil=True, cache=True, inline="always")
def _place(i: int, j: int) -> int:
    """Give the place of the pair (i, j), with j at most i, among the lanes."""
    return i * (i + 1) // 2 + j


@njit(nogil=True, cache=True)
def _add_by_blocks(base, vectors, code, first, rows, lanes):  # type: ignore[no-untyped-def]
    count = len(vectors)
    if count == 3:  # all products of three vectors at once are faster than one vector by two and one by itself
        for i in range(1):
            three = vectors[i], vectors[i + 1], vectors[i + 2]
            _triangle(base, three, code, first, rows, lanes, (0, 1, 2, 3, 4, 5))
        return
    for i in range(0, count - 1, 2):
        one, two = vectors[i], vectors[i + 1]
        places = _place(i, i), _place(i + 1, i), _place(i + 1, i + 1)
        _triangle(base, (one, two), code, first, rows, lanes, places)
        for j in range(0, i, 2):
            four = _place(i, j), _place(i, j + 1), _place(i + 1, j), _place(i + 1, j + 1)
            _rectangle(base, (one, two), (vectors[j], vectors[j + 1]), code, first, rows, lanes, four)
    for last in range(count // 2 * 2, count):
        _triangle(base, (vectors[last],), code, first, rows, lanes, (_place(last, last),))
        for j in range(0, last, 2):
            both = vectors[j], vectors[j + 1]
            _rectangle(base, (vectors[last],), both, code, first, rows, lanes, (_place(last, j), _place(last, j + 1)))


def _add_plainly(base, vectors, code, first, rows, lanes):  # type: ignore[no-untyped-def]
    values = np.empty((len(base) + len(vectors), rows * ROW), np.float32)
    for line, stored in zip(values, (*base, *vectors), strict=True):
        decode(stored.view(np.uint8), code, first, first + rows * ROW, line)
    taus = values[1:] - values[0] if base else values
    wide = taus.astype(np.float64).reshape(len(vectors), rows, ROW // LANES, LANES)
    for i in range(len(vectors)):
        for j in range(i + 1):
            terms = wide[i] * wide[j]
            for row in terms:
                lanes[_place(i, j)] += row[0] + row[1] + row[2] + row[3]


add_stored: Final[Any] = _add_plainly if settings.DISABLE_JIT else _add_by_blocks
"""``add_stored(base, vectors, code, first, rows, lanes)``

Add the products of all pairs of stored vectors, over whole rows of 128 elements, to their lanes.

Parameters
----------
base : tuple of uint8[:]
    Stored bytes of the base model, if the products are those of task vectors; else empty.
vectors : tuple of uint8[:], or float32[:, :]
    Stored bytes of the vectors, or decoded vectors. Their bytes may begin anywhere.
code : int
    Dtype code of all of them: BF16 or F32.
first : int
    First element of the first row.
rows : int
    How many rows.
lanes : float64[pairs, LANES]
    Partial sums of the lower triangle of the matrix, row by row, to which the kernel adds.
"""


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
    add_stored((), vectors, F32, 0, vectors.shape[1] // ROW, lanes)


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
            first, second = vectors[i], vectors[j]
            for k in range(whole, end):
                total += np.float64(first[k]) * np.float64(second[k])
            out[i, j] += total
    lanes[:] = 0.0  # all at the end: among the additions, they would keep the processor from going on to the next pair


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

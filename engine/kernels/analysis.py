"""What task vectors are like, in one sweep: sums, pairs, histograms, and what n:m pruning would keep.

A tile of the base model and of all models is decoded once and stays in the processor's cache while everything is
counted. Counts are integers. Sums are float64, each in an order that the tiles fix. No kernel depends on the number of
models, so that each is compiled once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import F16, F32, F64, decode
from dovetail.engine.kernels.selection import fill, select
from dovetail.engine.kernels.sums import sum_opposed, sum_products, sum_squares
from dovetail.engine.kernels.task_vectors import subtract
from dovetail.engine.kernels.upper_bits import count_upper

COUNTS = 3
"""Counts of each model: changes below bfloat16's resolution, and elements that n:m pruning keeps, without and with
regard to the others."""

SQUARES = 2
"""Sums of each model: the squares of what n:m pruning keeps, without and with regard to the others."""

PAIR_COUNTS = 4
"""Counts of each pair: both changed, changed in opposite directions, different, and kept by both."""

_ABS = np.uint32(0x7FFFFFFF)
_EXP = np.uint32(0x7F800000)
_ONE = np.uint32(1)
_LARGEST = np.float32(3.4028234663852886e38)


@njit(nogil=True, cache=True)
def _is_wide(code):  # type: ignore[no-untyped-def]
    """Whether a dtype has values that are no bfloat16."""
    return (code == F32) | (code == F16) | (code == F64)


@njit(nogil=True, cache=True)
def _count_below(values, base):  # type: ignore[no-untyped-def]
    """Count finite values that differ from the base model's and are the same when both are rounded to bfloat16."""
    one, other = values.view(np.uint32), base.view(np.uint32)
    found = np.uint32(0)
    for i in range(len(one)):
        x, y = one[i], other[i]
        finite = ((x & _EXP) != _EXP) & ((y & _EXP) != _EXP)
        rounded_x = np.uint32(np.uint32(x + np.uint32(0x7FFF) + ((x >> np.uint32(16)) & _ONE)) >> np.uint32(16))
        rounded_y = np.uint32(np.uint32(y + np.uint32(0x7FFF) + ((y >> np.uint32(16)) & _ONE)) >> np.uint32(16))
        found = np.uint32(found + np.uint32(finite & (values[i] != base[i]) & (rounded_x == rounded_y)))
    return np.int64(found)


@njit(nogil=True, cache=True)
def load_base(raw, code, first, base):  # type: ignore[no-untyped-def]
    """Decode a tile of the base model.

    Parameters
    ----------
    raw : uint8[:]
        Stored bytes.
    code : int
        Their dtype code.
    first : int
        The tile's first element.
    base : float32[:]
        Receives the elements.

    Returns
    -------
    bool
        Whether all of them are finite.

    """
    decode(raw, code, first, first + len(base), base)
    return np.isfinite(sum_squares(base))


@njit(nogil=True, cache=True)
def load_task_vector(raw, codes, first, base, tau):  # type: ignore[no-untyped-def]
    """Decode a tile of a task vector.

    Parameters
    ----------
    raw : uint8[:]
        Stored bytes of the model.
    codes : (int, int)
        Dtype codes of the base model and of the model.
    first : int
        The tile's first element.
    base : float32[:]
        The base model's elements.
    tau : float32[:]
        Receives the task vector.

    Returns
    -------
    finite : bool
        Whether all elements of the task vector are finite.
    below : int
        How many changes are lost where both models are rounded to bfloat16.

    """
    decode(raw, codes[1], first, first + len(base), tau)
    below = np.int64(0)
    if _is_wide(codes[0]) | _is_wide(codes[1]):
        below = _count_below(tau, base)
    subtract(tau, base)
    return np.isfinite(sum_squares(tau)), below


@njit(nogil=True, cache=True)
def load_finite(raw, code, first, base, tau):  # type: ignore[no-untyped-def]
    """Decode a tile of a task vector that is zero where the model or the base model is not finite.

    No change is larger than the greatest float32.

    Parameters
    ----------
    raw, code
        Stored bytes of the model, and their dtype code.
    first, base, tau
        As for `load_task_vector`.

    Returns
    -------
    int
        The number of the model's elements that are not finite.

    """
    decode(raw, code, first, first + len(base), tau)
    found = np.int64(0)
    for i in range(len(tau)):
        if not np.isfinite(tau[i]):
            found += 1
        if np.isfinite(tau[i]) and np.isfinite(base[i]):
            tau[i] = np.float32(max(-_LARGEST, min(_LARGEST, np.float32(tau[i] - base[i]))))
        else:
            tau[i] = np.float32(0.0)
    return found


@njit(nogil=True, cache=True)
def _compare(first, second, counts):  # type: ignore[no-untyped-def]
    """Count where two task vectors both have a change, changes in opposite directions, and different changes."""
    one, other = first.view(np.uint32), second.view(np.uint32)
    both, opposite, different = np.uint32(0), np.uint32(0), np.uint32(0)
    for i in range(len(one)):
        x, y = np.uint32(one[i] & _ABS), np.uint32(other[i] & _ABS)
        changed = np.uint32((x != 0) & (y != 0))
        both = np.uint32(both + changed)
        opposite = np.uint32(opposite + (changed & np.uint32(np.uint32(one[i] ^ other[i]) >> np.uint32(31))))
        different = np.uint32(different + np.uint32(first[i] != second[i]))
    counts[0] += np.int64(both)
    counts[1] += np.int64(opposite)
    counts[2] += np.int64(different)


@njit(nogil=True, cache=True)
def _keep(tau, marks, kept):  # type: ignore[no-untyped-def]
    """Copy what is marked, and write zeros elsewhere; give the number of marks."""
    found = np.uint32(0)
    for i in range(len(kept)):
        kept[i] = tau[i] if marks[i] != 0 else np.float32(0.0)
        found = np.uint32(found + np.uint32(marks[i] & np.uint16(1)))
    return np.int64(found)


@njit(nogil=True, cache=True)
def _count_common(first, second):  # type: ignore[no-untyped-def]
    """Count elements that are marked twice."""
    found = np.uint32(0)
    for i in range(len(first)):
        found = np.uint32(found + np.uint32(first[i] & second[i] & np.uint16(1)))
    return np.int64(found)


@njit(nogil=True, cache=True)
def _prune(taus, count, block, scratch, counts, squares):  # type: ignore[no-untyped-def]
    """Let every model keep n of every m changes: for itself, and among those that no earlier model keeps (CABS)."""
    n, m = block
    base, _, marks, free, everything, memory = scratch
    nothing = np.empty(0, np.uint8)
    fill(free, np.int64(0), count, np.uint16(0xFFFF))
    for j in range(len(taus)):
        tau, kept = taus[j], base[:count]  # the base model's elements are no longer needed
        select(tau, everything, marks[j], count, m, n, memory, nothing)
        counts[j, 1] += _keep(tau, marks[j], kept)
        squares[j, 0] += sum_squares(kept)
        mine = marks[len(taus) if j else 0]
        if j:
            select(tau, free, mine, count, m, n, memory, nothing)
            counts[j, 2] += _keep(tau, mine, kept)
            squares[j, 1] += sum_squares(kept)
        else:
            counts[0, 2], squares[0, 1] = counts[0, 1], squares[0, 0]
        for i in range(count):
            free[i] &= np.uint16(~mine[i])


@njit(nogil=True, cache=True)
def analyse_tile(count, block, scratch, totals, histograms):  # type: ignore[no-untyped-def]
    """Add all that a tile tells of the task vectors to totals.

    Parameters
    ----------
    count : int
        Elements of the tile. A block begins with it.
    block : (int, int)
        n and m of n:m pruning.
    scratch : (float32[T], float32[K, T], uint16[K + 1, T], uint16[T], uint16[T], tuple)
        The base model's elements and the task vectors, all finite; memory for marks; marks that are all set; and the
        scratch memory of `select`. T is at least a tile and a span more, as `select` needs it. The base model's
        elements are overwritten.
    totals : (int64[K, COUNTS], float64[K, SQUARES], int64[K, K, PAIR_COUNTS], float64[K + 1, K + 1, 2])
        What the kernel adds to. See `COUNTS`, `SQUARES` and `PAIR_COUNTS`. Of each pair, of which the first is the
        later one, the sum of products and that of the magnitudes of negative ones; the base model comes last, and has
        only sums of products.
    histograms : (uint32[K, 32768], uint32[K, 32768], float64[K, 32768])
        See `dovetail.engine.kernels.upper_bits.count_upper`.

    """
    counts, squares, pairs, products = totals
    base, taus, marks = scratch[0], scratch[1], scratch[2]
    models = len(taus)
    products[models, models, 0] += sum_squares(base[:count])
    for j in range(models):
        products[models, j, 0] += sum_products(base[:count], taus[j, :count])
        count_upper(taus[j, :count], histograms[0][j], histograms[1][j], histograms[2][j])
    _prune(taus, count, block, scratch, counts, squares)
    for i in range(models):
        products[i, i, 0] += sum_squares(taus[i, :count])
        for j in range(i):
            one, other = taus[i, :count], taus[j, :count]
            _compare(one, other, pairs[i, j])
            pairs[i, j, 3] += _count_common(marks[i, :count], marks[j, :count])
            products[i, j, 0] += sum_products(one, other)
            products[i, j, 1] += sum_opposed(one, other)

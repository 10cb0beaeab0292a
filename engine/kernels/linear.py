"""Weighted sums of models, and of task vectors, each fused into one kernel that reads and writes stored bytes.

A kernel makes one pass over a chunk, tile by tile, so that all intermediate values stay in the L1 cache. All arithmetic
is float32, every operation is rounded by itself, and models are added in order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, decode, encode
from dovetail.engine.kernels.election import scale_change
from dovetail.engine.kernels.statistics import count_nonfinite, count_pairs, mark_nonzero
from dovetail.engine.kernels.sums import sum_squares
from dovetail.engine.kernels.task_vectors import add_change, subtract

TILE = 4096
"""Elements of a tile: few enough for the L1 and L2 caches, enough to outweigh the work around each loop."""

PART = 1024
"""Elements of a tile where no sum depends on its length: few enough for the L1 cache."""

_ONE = np.float32(1.0)


@njit(nogil=True, cache=True)
def _add_scaled(values: np.ndarray, weight: np.float32, total: np.ndarray) -> None:
    """Add ``weight * values`` to a running sum."""
    for i in range(len(values)):
        total[i] = np.float32(total[i] + np.float32(weight * values[i]))


@njit(nogil=True, cache=True)
def weighted_sum(models, codes, weights, divisor, out, out_code, nonfinite):  # type: ignore[no-untyped-def]
    """Compute the weighted average sum(w W) / divisor of models, for all elements of `out`.

    Model soups: https://arxiv.org/abs/2203.05482. The sum starts from the first product, not from zero, so that it is
    -0.0 where all terms are -0.0.

    Parameters
    ----------
    models : tuple of uint8[:]
        Stored bytes of the models; all arrays are of one numba type.
    codes : int64[:]
        Dtype codes of the models.
    weights : float32[:]
        The models' weights.
    divisor : float32
        What the weighted sum is divided by.
    out : uint8[:]
        Receives the stored bytes of the result.
    out_code : int
        Dtype code of the result.
    nonfinite : int64[:]
        Number of NaN and infinite elements of each model, which the kernel adds to.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    length = len(out) // ITEMSIZES[out_code]
    values, total = np.empty(PART, np.float32), np.empty(PART, np.float32)
    overflowed = 0
    for start in range(0, length, PART):
        stop = min(start + PART, length)
        tile, sums = values[: stop - start], total[: stop - start]
        decode(models[0], codes[0], start, stop, sums)
        scale_change(sums, _ONE, weights[0])
        for j in range(1, len(models)):
            decode(models[j], codes[j], start, stop, tile)
            _add_scaled(tile, weights[j], sums)
        scale_change(sums, divisor, _ONE)
        wrong = count_nonfinite(sums)
        if wrong:  # as it is wherever a model is not finite, because no sum leaves NaN or infinity behind
            for j in range(len(models)):
                decode(models[j], codes[j], start, stop, tile)
                nonfinite[j] += count_nonfinite(tile)
        overflowed += wrong + encode(sums, out_code, start, stop, out)
    return overflowed


@njit(nogil=True, cache=True)
def weighted_task_vectors(  # type: ignore[no-untyped-def]
    sources, codes, weights, scale, out, out_code, totals
):
    """Compute W0 + factor * (sum(w tau) / divisor) for all elements of `out`.

    Task arithmetic: https://arxiv.org/abs/2212.04089, equation 1. Where the change is exactly zero, the base model's
    value is copied.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes of the base model and of the K models; all arrays are of one numba type.
    codes : int64[:]
        Dtype codes of the sources.
    weights : float32[:]
        The models' weights.
    scale : (float32, float32)
        What the weighted sum is divided by, and what the quotient is multiplied by (the paper's lambda).
    out : uint8[:]
        Receives the stored bytes of the result.
    out_code : int
        Dtype code of the result.
    totals : (int64[K + 1], int64[K, K], float64[K + 1])
        Sums that the kernel adds to: NaN and infinite elements of each source; how many elements both model i and
        model j change; sums of squares of each task vector, then of the change.

    Returns
    -------
    int
        The number of elements of the output that are not finite.

    """
    models = len(weights)
    length = len(out) // ITEMSIZES[out_code]
    divisor, factor = scale
    nonfinite, pairs, squares = totals
    base = np.empty(TILE, np.float32)
    tau = np.empty(TILE, np.float32)
    delta = np.empty(TILE, np.float32)
    masks = np.empty((models, TILE), np.uint8)
    overflowed = 0
    for start in range(0, length, TILE):
        stop = min(start + TILE, length)
        count = stop - start
        origin, vector, change = base[:count], tau[:count], delta[:count]
        decode(sources[0], codes[0], start, stop, origin)
        change[:] = np.float32(0.0)
        finite = True
        for j in range(models):
            decode(sources[j + 1], codes[j + 1], start, stop, vector)
            subtract(vector, origin)
            square = sum_squares(vector)
            squares[j] += square
            # Squares of float32 do not overflow float64, so a finite sum means that both sources are finite here.
            finite &= np.isfinite(square)
            mark_nonzero(vector, masks[j, :count])
            _add_scaled(vector, weights[j], change)
        if not finite:
            for j in range(models + 1):
                decode(sources[j], codes[j], start, stop, vector)
                nonfinite[j] += count_nonfinite(vector)
        count_pairs(masks, count, pairs)
        scale_change(change, divisor, factor)
        squares[models] += sum_squares(change)
        add_change(change, origin)
        overflowed += count_nonfinite(change)
        overflowed += encode(change, out_code, start, stop, out)
    return overflowed

"""The divergence between the softmax distributions of two rows, in float64, with the same bits on every machine.

Exponentials and logarithms are computed by basic arithmetic here, because those of the system's library differ in their
last bits between versions of the library and between processors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

EPSILON = 1e-8
"""What is added to every probability, as in mergekit."""

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to a whole number
_LEAST = -708.0
_T2, _T3, _T4, _T5, _T6, _T7 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040
_T8, _T9, _T10, _T11 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800
_T12, _T13 = 1 / 479001600, 1 / 6227020800


@njit(nogil=True, cache=True, inline="always")
def _exponential(x: float) -> float:
    """Compute e^x for x from -708 to 0, to about one unit in the last place.

    A power of two is split off first; Taylor's series gives the rest.
    """
    power = (x * _LOG2E + _ROUND) - _ROUND
    r = (x - power * _LN2_HIGH) - power * _LN2_LOW
    s = _T13
    s = s * r + _T12
    s = s * r + _T11
    s = s * r + _T10
    s = s * r + _T9
    s = s * r + _T8
    s = s * r + _T7
    s = s * r + _T6
    s = s * r + _T5
    s = s * r + _T4
    s = s * r + _T3
    s = s * r + _T2
    s = s * r + 1.0
    s = s * r + 1.0
    return s * np.int64((np.int64(power) + 1023) << 52).view(np.float64)


@njit(nogil=True, cache=True)
def largest(values: np.ndarray, before: np.float32) -> np.float32:
    """Give the largest of float32 values and of `before`, the largest of those before them."""
    for i in range(len(values)):
        before = max(before, values[i])
    return before


@njit(nogil=True, cache=True)
def add_exponentials(values: np.ndarray, top: np.float32, out: np.ndarray, total: float) -> float:
    """Write e^(x - top) for every value x: softmax without its division.

    Parameters
    ----------
    values : float32[:]
        A row, or a part of it.
    top : float32
        The largest value of the row.
    out : float64[:]
        Receives the exponentials; at least as long.
    total : float
        The sum of the exponentials of the row before them.

    Returns
    -------
    float
        The sum with theirs.

    """
    for i in range(len(values)):
        x = np.float64(values[i]) - np.float64(top)
        out[i] = _exponential(x if x > _LEAST else _LEAST)
    for i in range(len(values)):
        total += out[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _log_ratio(p: float, q: float) -> float:
    """Compute log(p / q) as 2 artanh((p - q) / (p + q)), accurate to rounding while that quotient is below 0.1."""
    s = (p - q) / (p + q)
    z = s * s
    t = 1.0 / 17.0
    t = t * z + 1.0 / 15.0
    t = t * z + 1.0 / 13.0
    t = t * z + 1.0 / 11.0
    t = t * z + 1.0 / 9.0
    t = t * z + 1.0 / 7.0
    t = t * z + 1.0 / 5.0
    t = t * z + 1.0 / 3.0
    return 2.0 * s + 2.0 * s * z * t


@njit(nogil=True, cache=True, error_model="numpy")
def _log_ratio_far(p: float, q: float) -> float:
    """Compute log(p / q) for any p and q above 0, splitting off powers of two first."""
    ratio = p / q
    power = 0.0
    while ratio > 1.2:
        ratio *= 0.5
        power += 1.0
    while ratio < 0.6:
        ratio *= 2.0
        power -= 1.0
    return power * _LN2_HIGH + (power * _LN2_LOW + _log_ratio_near_one(ratio))


@njit(nogil=True, cache=True, error_model="numpy")
def _log_ratio_near_one(ratio: float) -> float:
    """Compute the logarithm of a number from 0.6 to 1.2; its fourth root lies where `_log_ratio` is accurate."""
    root = np.sqrt(np.sqrt(ratio))
    return 4.0 * _log_ratio(root, 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def add_divergence(tuned, base, tops, wholes, scratch, total):  # type: ignore[no-untyped-def]
    """Add the terms p log(p / q) of a row, or of a part of it, to the sum of those before them.

    Parameters
    ----------
    tuned, base : float32[:]
        The row of the fine-tune and that of the base model, or the same part of both.
    tops : tuple of float32
        The largest value of either row.
    wholes : tuple of float
        The sum of the exponentials of either row, which `add_exponentials` gives.
    scratch : float64[3, :]
        Working memory, at least as long.
    total : float
        The sum of the terms before them.

    Returns
    -------
    float
        The sum with theirs.

    """
    count = len(tuned)
    p, q, terms = scratch[0, :count], scratch[1, :count], scratch[2, :count]
    add_exponentials(tuned, tops[0], p, 0.0)
    add_exponentials(base, tops[1], q, 0.0)
    far = False
    for i in range(count):
        first, second = p[i] / wholes[0] + EPSILON, q[i] / wholes[1] + EPSILON
        p[i], q[i] = first, second
        far |= abs(first - second) > 0.1 * (first + second)
        terms[i] = first * _log_ratio(first, second)
    if far:
        for i in range(count):
            if abs(p[i] - q[i]) > 0.1 * (p[i] + q[i]):
                terms[i] = p[i] * _log_ratio_far(p[i], q[i])
    for i in range(count):
        total += terms[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def row_divergence(tuned: np.ndarray, base: np.ndarray, scratch: np.ndarray) -> np.float32:
    """Compute the divergence sum(p log(p / q)), where p and q are the softmax of two rows plus `EPSILON`.

    Parameters
    ----------
    tuned, base : float32[:]
        The row of the fine-tune and that of the base model, of one length and at least one element.
    scratch : float64[3, :]
        Working memory, at least as long as a row.

    Returns
    -------
    float32
        The divergence; 0 where rounding would make it negative.

    """
    tops = largest(tuned, tuned[0]), largest(base, base[0])
    wholes = add_exponentials(tuned, tops[0], scratch[0], 0.0), add_exponentials(base, tops[1], scratch[1], 0.0)
    return np.float32(max(add_divergence(tuned, base, tops, wholes, scratch, 0.0), 0.0))


@njit(nogil=True, cache=True)
def row_divergences(tuned: np.ndarray, base: np.ndarray, row_length: int, scratch: np.ndarray, out: np.ndarray) -> None:
    """Compute the divergence of every row.

    Parameters
    ----------
    tuned, base : float32[:]
        Whole rows of the fine-tune and of the base model.
    row_length : int
        Elements of a row.
    scratch : float64[3, :]
        Working memory, at least as long as a row.
    out : float32[:]
        Receives the divergence of each row.

    """
    for row in range(len(out)):
        begin, end = row * row_length, (row + 1) * row_length
        out[row] = row_divergence(tuned[begin:end], base[begin:end], scratch)


@njit(nogil=True, cache=True)
def importance(tau: np.ndarray, first: int, row_length: int, divergences: np.ndarray, out: np.ndarray) -> None:
    """Multiply the magnitude of each change by the divergence of the change's row.

    Parameters
    ----------
    tau : float32[:]
        Task vector: consecutive elements of the tensor.
    first : int
        Index in the tensor of the first of them.
    row_length : int
        Elements of a row.
    divergences : float32[:]
        The divergence of every row of the tensor.
    out : float32[:]
        Receives the products.

    """
    done = 0
    while done < len(tau):
        row, column = divmod(first + done, row_length)
        here = min(row_length - column, len(tau) - done)
        factor = divergences[row]
        for i in range(done, done + here):
            out[i] = np.float32(abs(tau[i]) * factor)
        done += here

"""Sums of scaled task vectors, with or without the election of signs.

TIES: https://arxiv.org/abs/2306.01708, section 3. All arithmetic is float32, each operation rounded on its own, models
in order. A sum of 0 elects +; contributions of 0 have no sign and are never counted. Kernels that divide do so by
numpy's rules: a check for zero at every element would keep them from becoming vector code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)
TOTAL, POSITIVE, NEGATIVE, POSITIVE_WEIGHT, NEGATIVE_WEIGHT = range(5)
"""Lines of the sums: of all contributions, of those of each sign, and of the weights of those."""


@njit(nogil=True, cache=True)
def add_scaled(tau: np.ndarray, mask: np.ndarray, scale: np.float32, weight: np.float32, total: np.ndarray) -> None:
    """Add one model's contributions: total += weight * (scale * tau) where the mask is set.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where it is kept, else 0.
    scale, weight : float32
        Rescaling factor and weight.
    total : float32[:]
        Sum so far, added to.

    """
    for i in range(len(tau)):
        contribution = np.float32(weight * np.float32(scale * tau[i]))
        total[i] = np.float32(total[i] + (contribution if mask[i] != 0 else _ZERO))


@njit(nogil=True, cache=True)
def add_voting(tau: np.ndarray, mask: np.ndarray, scale: np.float32, weight: np.float32, sums: np.ndarray) -> None:
    """Add one model's contributions to the sums that `elect_signs` needs.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where it is kept, else 0.
    scale, weight : float32
        Rescaling factor and weight.
    sums : float32[5, :]
        See `TOTAL` and what follows it; contiguous, with lines at least as long; added to.

    """
    total, positive, negative, above, below = sums[0], sums[1], sums[2], sums[3], sums[4]
    for i in range(len(tau)):
        contribution = np.float32(weight * np.float32(scale * tau[i]))
        contribution = contribution if mask[i] != 0 else _ZERO
        total[i] = np.float32(total[i] + contribution)
        plus, minus = contribution > _ZERO, contribution < _ZERO
        positive[i] = np.float32(positive[i] + (contribution if plus else _ZERO))
        negative[i] = np.float32(negative[i] + (contribution if minus else _ZERO))
        above[i] = np.float32(above[i] + (weight if plus else _ZERO))
        below[i] = np.float32(below[i] + (weight if minus else _ZERO))


@njit(nogil=True, cache=True)
def add_weighted_votes(tau: np.ndarray, mask: np.ndarray, weight: np.float32, sums: np.ndarray) -> None:
    """Add one model's changes to the sums that `elect_signs` needs, where the vote is for changes without weights.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where it is kept, else 0.
    weight : float32
        Weight of the changes and of their divisor, but not of their vote.
    sums : float32[5, :]
        See `TOTAL` and what follows it; contiguous, with lines at least as long; added to.

    """
    total, positive, negative, above, below = sums[0], sums[1], sums[2], sums[3], sums[4]
    for i in range(len(tau)):
        change = tau[i] if mask[i] != 0 else _ZERO
        contribution = np.float32(weight * change)
        total[i] = np.float32(total[i] + change)
        plus, minus = change > _ZERO, change < _ZERO
        positive[i] = np.float32(positive[i] + (contribution if plus else _ZERO))
        negative[i] = np.float32(negative[i] + (contribution if minus else _ZERO))
        above[i] = np.float32(above[i] + (weight if plus else _ZERO))
        below[i] = np.float32(below[i] + (weight if minus else _ZERO))


@njit(nogil=True, cache=True, error_model="numpy")
def elect_signs(sums: np.ndarray, normalize: bool, least: np.float32, change: np.ndarray) -> None:
    """Take the contributions of the elected sign, divided by the sum of their weights if they are to be normalised.

    Parameters
    ----------
    sums : float32[5, :]
        From `add_voting`.
    normalize : bool
        Whether to divide.
    least : float32
        A smaller divisor counts as this, and a divisor of 0 as 1.
    change : float32[:]
        Receives the change.

    """
    total, positive, negative, above, below = sums[0], sums[1], sums[2], sums[3], sums[4]
    for i in range(len(change)):
        value = positive[i] if total[i] >= _ZERO else negative[i]
        # A sum that is not a number elects nothing and stays what it is.
        change[i] = value if total[i] == total[i] else total[i]
    if normalize:
        for i in range(len(change)):
            divisor = above[i] if total[i] >= _ZERO else below[i]
            divisor = least if divisor < least else divisor
            divisor = np.float32(1.0) if divisor == _ZERO else divisor
            change[i] = np.float32(change[i] / divisor)


@njit(nogil=True, cache=True, error_model="numpy")
def scale_change(change: np.ndarray, divisor: np.float32, factor: np.float32) -> None:
    """Divide, then multiply, in place; one is skipped, as the result is the same.

    Parameters
    ----------
    change : float32[:]
        The change.
    divisor, factor : float32
        What it is divided by, and multiplied by then (lambda).

    """
    if divisor != np.float32(1.0):
        for i in range(len(change)):
            change[i] = np.float32(change[i] / divisor)
    if factor != np.float32(1.0):
        for i in range(len(change)):
            change[i] = np.float32(change[i] * factor)

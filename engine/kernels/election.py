"""Sums of scaled task vectors, with or without an election of signs.

TIES: https://arxiv.org/abs/2306.01708, section 3 ("elect sign" and "disjoint merge"). All arithmetic is float32, every
operation is rounded by itself, and models are added in order. A sum of 0 elects the positive sign; contributions of 0
have no sign and are not counted. Kernels that divide use numpy's rules, because Python's check of every divisor for
zero would keep a loop from becoming vector code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
TOTAL, POSITIVE, NEGATIVE, POSITIVE_SHARE, NEGATIVE_SHARE = range(5)
"""Rows of the sums that an election needs: the total of the votes, the contributions of the models that vote + and of
those that vote -, and the shares of the same two groups, by which a mean divides."""


@njit(nogil=True, cache=True)
def add_scaled(tau: np.ndarray, mask: np.ndarray, scale: np.float32, weight: np.float32, total: np.ndarray) -> None:
    """Add one model's contributions to a sum: total += weight * (scale * tau) where the mask is set.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    scale : float32
        Factor that rescales what the model keeps.
    weight : float32
        The model's weight.
    total : float32[:]
        The sum so far, which the kernel adds to.

    """
    for i in range(len(tau)):
        contribution = np.float32(weight * np.float32(scale * tau[i]))
        # Adding zero leaves the bits of the sum alone, because a sum that starts at +0 is never -0.
        total[i] = np.float32(total[i] + (contribution if mask[i] != 0 else _ZERO))


@njit(nogil=True, cache=True)
def add_voting(
    tau: np.ndarray, mask: np.ndarray, scale: np.float32, weight: np.float32, share: np.float32, sums: np.ndarray
) -> None:
    """Add one model to an election: it votes with its contributions, weight * (scale * tau) where the mask is set.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    scale : float32
        Factor that rescales what the model keeps.
    weight : float32
        The model's weight.
    share : float32
        What a mean divides by for this model: 1 for the mean of the paper, the weight for a weighted mean.
    sums : float32[5, :]
        The rows that `TOTAL` and its neighbours name, contiguous and at least as long as `tau`; the kernel adds to
        them.

    """
    total, positive, negative, above, below = sums[0], sums[1], sums[2], sums[3], sums[4]
    for i in range(len(tau)):
        contribution = np.float32(weight * np.float32(scale * tau[i]))
        contribution = contribution if mask[i] != 0 else _ZERO
        total[i] = np.float32(total[i] + contribution)
        plus, minus = contribution > _ZERO, contribution < _ZERO
        positive[i] = np.float32(positive[i] + (contribution if plus else _ZERO))
        negative[i] = np.float32(negative[i] + (contribution if minus else _ZERO))
        above[i] = np.float32(above[i] + (share if plus else _ZERO))
        below[i] = np.float32(below[i] + (share if minus else _ZERO))


@njit(nogil=True, cache=True)
def add_weighted_votes(tau: np.ndarray, mask: np.ndarray, weight: np.float32, sums: np.ndarray) -> None:
    """Add one model to an election: it votes with its changes, and the weight applies to its contributions alone.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    weight : float32
        Factor of the model's contributions, and its share in the divisor of a mean. The votes do not depend on it.
    sums : float32[5, :]
        As for `add_voting`.

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
    """Elect a sign for every element, and take the sum or the mean of the contributions of that sign.

    Where a single model keeps an element, the mean is that model's contribution.

    Parameters
    ----------
    sums : float32[5, :]
        What `add_voting` or `add_weighted_votes` has added up.
    normalize : bool
        Whether to take the mean: to divide by the shares of the models that voted for the elected sign.
    least : float32
        Least divisor of a mean: a smaller one is replaced by it. A divisor of 0 is replaced by 1.
    change : float32[:]
        Receives the change; NaN where the total of the votes is NaN.

    """
    total, positive, negative, above, below = sums[0], sums[1], sums[2], sums[3], sums[4]
    # Both of what is chosen from are read first, because a read that depends on the choice is no vector code.
    for i in range(len(change)):
        votes, plus, minus = total[i], positive[i], negative[i]
        value = plus if votes >= _ZERO else minus
        # A total that is NaN elects no sign, and the NaN is passed on.
        change[i] = value if votes == votes else votes
    if normalize:
        for i in range(len(change)):
            plus, minus = above[i], below[i]
            divisor = plus if total[i] >= _ZERO else minus
            divisor = least if divisor < least else divisor
            divisor = _ONE if divisor == _ZERO else divisor
            change[i] = np.float32(change[i] / divisor)


@njit(nogil=True, cache=True, error_model="numpy")
def scale_change(change: np.ndarray, divisor: np.float32, factor: np.float32) -> None:
    """Divide every element by a divisor, then multiply it by a factor, in place.

    The kernel skips a divisor or a factor of 1, which would change no bit.

    Parameters
    ----------
    change : float32[:]
        The values.
    divisor : float32
        What every value is divided by, first.
    factor : float32
        What every quotient is multiplied by (the paper's lambda).

    """
    if divisor != _ONE:
        for i in range(len(change)):
            change[i] = np.float32(change[i] / divisor)
    if factor != _ONE:
        for i in range(len(change)):
            change[i] = np.float32(change[i] * factor)

"""Merging what the models keep into one change per element, and adding it to the base model.

All arithmetic is float32, each operation rounded on its own, models in order. An element whose change is exactly
zero keeps the base model's value, the sign of a zero included.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)


@njit(nogil=True, cache=True)
def add_kept(tau: np.ndarray, mask: np.ndarray, weight: np.float32, delta: np.ndarray) -> None:
    """Add one model's contributions: delta += weight * tau where the mask is set.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    weight : float32
        Its weight (lambda).
    delta : float32[:]
        Sum so far, added to.

    """
    for i in range(len(tau)):
        contribution = np.float32(weight * tau[i])
        # Adding zero leaves the sum's bits alone: it starts at +0 and so is never -0.
        delta[i] = np.float32(delta[i] + (contribution if mask[i] != 0 else _ZERO))


@njit(nogil=True, cache=True)
def add_signed(tau: np.ndarray, mask: np.ndarray, weight: np.float32, sums: np.ndarray, counts: np.ndarray) -> None:
    """Add one model's contributions to what `elect` needs.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    weight : float32
        Its weight (lambda).
    sums : float32[3, :]
        Sums of all, of the positive and of the negative contributions; added to.
    counts : uint16[3, :]
        How many models keep the element, contribute positively, and negatively; added to.

    """
    total, positive, negative = sums[0], sums[1], sums[2]
    keepers, above, below = counts[0], counts[1], counts[2]
    for i in range(len(tau)):
        if mask[i] != 0:
            contribution = np.float32(weight * tau[i])
            total[i] = np.float32(total[i] + contribution)
            keepers[i] = np.uint16(keepers[i] + np.uint16(1))
            if contribution > _ZERO:
                positive[i] = np.float32(positive[i] + contribution)
                above[i] = np.uint16(above[i] + np.uint16(1))
            elif contribution < _ZERO:
                negative[i] = np.float32(negative[i] + contribution)
                below[i] = np.uint16(below[i] + np.uint16(1))


@njit(nogil=True, cache=True)
def elect(sums: np.ndarray, counts: np.ndarray, delta: np.ndarray) -> None:
    """Resolve elements by the consensus of TIES (https://arxiv.org/abs/2306.01708, section 3).

    Where more than one model keeps the element, the sign of the sum wins (zero counts as +) and the change is the
    mean of the non-zero contributions of that sign, or zero if there are none. A sum that is NaN stays NaN.

    Parameters
    ----------
    sums : float32[3, :]
        Sums of all, of the positive and of the negative contributions.
    counts : uint16[3, :]
        How many models keep the element, contribute positively, and negatively.
    delta : float32[:]
        Receives the change.

    """
    total, positive, negative = sums[0], sums[1], sums[2]
    keepers, above, below = counts[0], counts[1], counts[2]
    for i in range(len(delta)):
        change = total[i]
        if keepers[i] > 1 and change >= _ZERO:
            change = np.float32(positive[i] / np.float32(above[i])) if above[i] > 0 else _ZERO
        elif keepers[i] > 1 and change < _ZERO:
            change = np.float32(negative[i] / np.float32(below[i])) if below[i] > 0 else _ZERO
        delta[i] = change


@njit(nogil=True, cache=True)
def add_change(delta: np.ndarray, base: np.ndarray) -> None:
    """Turn the change into the merged values in place; where it is zero the base stands as it is.

    Parameters
    ----------
    delta : float32[:]
        The change, replaced by the merged values.
    base : float32[:]
        The base model's values.

    """
    for i in range(len(delta)):
        merged = np.float32(base[i] + delta[i])
        delta[i] = base[i] if delta[i] == _ZERO else merged


@njit(nogil=True, cache=True)
def keep_masked(tau: np.ndarray, mask: np.ndarray, kept: np.ndarray) -> None:
    """Copy tau where the mask is set, zero elsewhere.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    kept : float32[:]
        Receives the kept part.

    """
    for i in range(len(tau)):
        kept[i] = tau[i] if mask[i] != 0 else _ZERO

"""Formulas for one element of each source at a time: nearswap, ram, and the variance that sce selects by.

All arithmetic is float32, each operation rounded on its own, models in order. Kernels that divide do so by numpy's
rules: a check for zero at every element would keep them from becoming vector code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_TILE = 1024


@njit(nogil=True, cache=True, error_model="numpy")
def near_swap(base: np.ndarray, other: np.ndarray, t: np.float32, least: np.float32, out: np.ndarray) -> None:
    """Move the base towards the other model, the further the nearer they are.

    w = clip(t / max(abs(base - other), least), 0, 1); out = w other + (1 - w) base.

    Parameters
    ----------
    base, other : float32[:]
        The two models.
    t : float32
        Distance up to which the other model's value is taken whole.
    least : float32
        Least distance that is divided by.
    out : float32[:]
        Receives the result.

    """
    for i in range(len(base)):
        distance = np.float32(abs(np.float32(base[i] - other[i])))
        distance = least if distance < least else distance
        weight = np.float32(t / distance)
        weight = _ONE if weight > _ONE else weight
        weight = _ZERO if weight < _ZERO else weight
        rest = np.float32(_ONE - weight)
        out[i] = np.float32(np.float32(weight * other[i]) + np.float32(rest * base[i]))


@njit(nogil=True, cache=True)
def count_changed(taus: np.ndarray, epsilon: np.float32, counts: np.ndarray, found: np.ndarray) -> None:
    """Count for every element how many models change it, and for every model its shared and its unique changes.

    Parameters
    ----------
    taus : float32[:, :]
        One task vector a line.
    epsilon : float32
        A change counts if its magnitude is greater.
    counts : uint16[:]
        Receives the number of models that change an element.
    found : int64[:, 2]
        Each model's shared and unique changes, added to.

    """
    counts[:] = np.uint16(0)
    for j in range(len(taus)):
        tau = taus[j]
        for i in range(len(counts)):
            counts[i] = np.uint16(counts[i] + np.uint16(abs(tau[i]) > epsilon))
    for j in range(len(taus)):
        tau = taus[j]
        shared, unique = np.uint32(0), np.uint32(0)
        for i in range(len(counts)):
            changed = abs(tau[i]) > epsilon
            shared = np.uint32(shared + np.uint32(changed & (counts[i] > 1)))
            unique = np.uint32(unique + np.uint32(changed & (counts[i] == 1)))
        found[j, 0] += np.int64(shared)
        found[j, 1] += np.int64(unique)


@njit(nogil=True, cache=True)
def mark_changed(tau: np.ndarray, epsilon: np.float32, mask: np.ndarray) -> None:
    """Mark the changes that count.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    epsilon : float32
        A change counts if its magnitude is greater.
    mask : uint8[:]
        Receives 1 or 0 for each.

    """
    for i in range(len(tau)):
        mask[i] = np.uint8(abs(tau[i]) > epsilon)


@njit(nogil=True, cache=True, error_model="numpy")
def add_changed(tau: np.ndarray, mask: np.ndarray, factor: np.float32, counts: np.ndarray, total: np.ndarray) -> None:
    """Add one model's changes: its unique ones times a factor, the others divided by the number of models.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where this model's change counts.
    factor : float32
        Factor of unique changes.
    counts : uint16[:]
        How many models change each element.
    total : float32[:]
        Sum so far, added to.

    """
    for i in range(len(tau)):
        sharers = np.float32(counts[i] if counts[i] > 0 else 1)
        value = np.float32(tau[i] * factor) if counts[i] == 1 else np.float32(tau[i] / sharers)
        total[i] = np.float32(total[i] + (value if mask[i] != 0 else _ZERO))


@njit(nogil=True, cache=True, error_model="numpy")
def variance(taus: np.ndarray, out: np.ndarray) -> None:
    """Compute the population variance over some task vectors at every element.

    The mean and the squares are summed in float64, the result is rounded once.

    Parameters
    ----------
    taus : float32[:, :]
        One task vector a line.
    out : float32[:]
        Receives the variances.

    """
    # Slow equivalent: taus.astype(np.float64).var(axis=0)
    count = np.float64(len(taus))
    means, squares = np.empty(_TILE, np.float64), np.empty(_TILE, np.float64)
    for start in range(0, len(out), _TILE):
        size = min(_TILE, len(out) - start)
        for i in range(size):
            means[i], squares[i] = 0.0, 0.0
        for j in range(len(taus)):
            tau = taus[j, start : start + size]
            for i in range(size):
                means[i] += np.float64(tau[i])
        for i in range(size):
            means[i] /= count
        for j in range(len(taus)):
            tau = taus[j, start : start + size]
            for i in range(size):
                distance = np.float64(tau[i]) - means[i]
                squares[i] += distance * distance
        part = out[start : start + size]
        for i in range(size):
            part[i] = np.float32(squares[i] / count)

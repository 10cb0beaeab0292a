"""Formulas that take one element of each source at a time: NearSwap, RAM, and the variance by which SCE selects.

All arithmetic is float32, every operation is rounded by itself, and models are taken in order. Kernels that divide use
numpy's rules, because Python's check of every divisor for zero would keep a loop from becoming vector code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_TILE = 1024


@njit(nogil=True, cache=True, error_model="numpy")
def near_swap(base: np.ndarray, other: np.ndarray, t: np.float32, least: np.float32, out: np.ndarray) -> None:
    """Move each value of the base model towards that of the other model; the nearer they are, the further it moves.

    NearSwap: https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001. With
    w = clip(t / max(abs(base - other), least), 0, 1), the result is w other + (1 - w) base.

    Parameters
    ----------
    base, other : float32[:]
        Values of the base model and of the other model.
    t : float32
        Distance up to which the other model's value is taken unchanged.
    least : float32
        Least divisor: a smaller distance is replaced by it.
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
    """Count the models that change each element, and the shared and unique changes of each model.

    RAM: https://arxiv.org/abs/2601.13572. A change is shared if other models change the element too, else unique.

    Parameters
    ----------
    taus : float32[:, :]
        One task vector in each line.
    epsilon : float32
        Only changes with a magnitude above this count.
    counts : uint16[:]
        Receives, for each element, the number of models that change it.
    found : int64[:, 2]
        For each model, the numbers of its shared and of its unique changes, which the kernel adds to.

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
    """Mark the changes with a magnitude above epsilon.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    epsilon : float32
        Only changes with a magnitude above this are marked.
    mask : uint8[:]
        Receives 1 for each change that is marked, else 0.

    """
    for i in range(len(tau)):
        mask[i] = np.uint8(abs(tau[i]) > epsilon)


@njit(nogil=True, cache=True, error_model="numpy")
def add_changed(tau: np.ndarray, mask: np.ndarray, factor: np.float32, counts: np.ndarray, total: np.ndarray) -> None:
    """Add one model's changes to a sum: unique ones times a factor, shared ones divided by the number of sharers.

    RAM: https://arxiv.org/abs/2601.13572.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model changes the element by more than epsilon, else 0.
    factor : float32
        Factor of the model's unique changes.
    counts : uint16[:]
        For each element, the number of models that change it.
    total : float32[:]
        The sum so far, which the kernel adds to.

    """
    for i in range(len(tau)):
        sharers = np.float32(counts[i] if counts[i] > 0 else 1)
        value = np.float32(tau[i] * factor) if counts[i] == 1 else np.float32(tau[i] / sharers)
        total[i] = np.float32(total[i] + (value if mask[i] != 0 else _ZERO))


@njit(nogil=True, cache=True, error_model="numpy")
def variance(taus: np.ndarray, out: np.ndarray) -> None:
    """Compute the population variance of the task vectors at every element.

    SCE: https://arxiv.org/abs/2408.07990. The mean and the squares are summed in float64, and the result is rounded
    once.

    Parameters
    ----------
    taus : float32[:, :]
        One task vector in each line.
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

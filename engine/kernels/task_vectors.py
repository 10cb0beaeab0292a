"""Steps of one task vector: making it, keeping a part of it, and adding a merged change to the base model.

All arithmetic is float32, and every operation is rounded by itself.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)


@njit(nogil=True, cache=True)
def subtract(values: np.ndarray, base: np.ndarray) -> None:
    """Turn decoded weights into a task vector in place: tau = W - W0.

    Parameters
    ----------
    values : float32[:]
        The weights W; the task vector tau replaces them.
    base : float32[:]
        The base model's weights W0.

    """
    for i in range(len(values)):
        values[i] = values[i] - base[i]


@njit(nogil=True, cache=True)
def keep_masked(tau: np.ndarray, mask: np.ndarray, kept: np.ndarray) -> None:
    """Copy a task vector where the mask is set, and write zero everywhere else.

    Parameters
    ----------
    tau : float32[:]
        Task vector.
    mask : uint8[:]
        1 where the model keeps the element, else 0.
    kept : float32[:]
        Receives the kept part.

    """
    # Slow equivalent: kept[:] = np.where(mask != 0, tau, 0). Read whether it is kept or not, tau is read by vectors.
    for i in range(len(tau)):
        change = tau[i]
        kept[i] = change if mask[i] != 0 else _ZERO


@njit(nogil=True, cache=True)
def add_change(delta: np.ndarray, base: np.ndarray) -> None:
    """Add the merged change to the base model in place.

    Where the change is zero, the base model's value is copied, so that a value of -0.0 keeps its sign.

    Parameters
    ----------
    delta : float32[:]
        The merged change; the merged weights replace it.
    base : float32[:]
        The base model's weights W0.

    """
    # Slow equivalent: delta[:] = np.where(delta == 0, base, base + delta)
    for i in range(len(delta)):
        merged = np.float32(base[i] + delta[i])
        delta[i] = base[i] if delta[i] == _ZERO else merged

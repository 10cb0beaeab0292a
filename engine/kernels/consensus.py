"""TALL masks and the consensus among them: https://arxiv.org/abs/2405.07813.

All arithmetic is float32, every operation is rounded by itself, and models are taken in order.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def mark_consensus(
    taus: np.ndarray, weights: np.ndarray, scales: np.ndarray, least: int, total: np.ndarray, mask: np.ndarray
) -> None:
    """Mark the elements that enough models call important.

    A model t calls an element important where ``|tau_t| > scale_t * |total - tau_t|``: its TALL mask, of which the
    total is the merged task vector, sum(w tau). An element is marked where at least `least` of the masks have it: the
    consensus mask.

    Parameters
    ----------
    taus : float32[models, elements]
        One task vector in each line.
    weights, scales : float32[models]
        The models' weights, and their scales (the paper's lambda_t).
    least : int
        How many models must call an element important (the paper's k).
    total : float32[elements]
        Receives the merged task vector.
    mask : uint8[elements]
        Receives 1 where an element is marked, else 0.

    """
    # Slow equivalent: mask = (abs(taus) > scales[:, None] * abs(total - taus)).sum(axis=0) >= least
    count = len(total)
    votes = np.zeros(count, np.uint16)
    for i in range(count):
        total[i] = np.float32(0.0)
    for j in range(len(taus)):
        weight, tau = weights[j], taus[j]
        for i in range(count):
            total[i] = np.float32(total[i] + np.float32(weight * tau[i]))
    for j in range(len(taus)):
        scale, tau = scales[j], taus[j]
        for i in range(count):
            rest = np.float32(scale * np.float32(abs(np.float32(total[i] - tau[i]))))
            votes[i] = np.uint16(votes[i] + np.uint16(abs(tau[i]) > rest))
    for i in range(count):
        mask[i] = np.uint8(votes[i] >= least)

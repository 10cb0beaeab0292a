"""How modular a network is: kernels that modules keep, what they share, and how alike samples of one class are.

A module is given here as the kernels that it keeps: an array of booleans for every masked layer. The measures are those
of MwT (https://arxiv.org/abs/2306.09376, section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Kept = Mapping[str, NDArray[np.bool_]]
"""Kernels of one module: an array of shape (kernels,) for every masked layer, by path."""


def kernel_retention(modules: Sequence[Kept]) -> float:
    """Give the kernel retention rate: the mean over modules of the share of masked kernels that a module keeps.

    Returns
    -------
    float
        From 0 to 1.

    """
    shares = [sum(int(kept.sum()) for kept in module.values()) / _width(module) for module in modules]
    return float(np.mean(shares))


def module_coupling(modules: Sequence[Kept]) -> float:
    """Give the coupling of modules: the mean Jaccard index over pairs of them.

    Returns
    -------
    float
        From 0, where no two modules share a kernel, to 1, where all are the same; 0 for a single module.

    """
    rows = [_joined(module) for module in modules]
    pairs = [jaccard(np.stack(pair))[0, 1] for pair in itertools.combinations(rows, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def sample_cohesion(masks: Kept, module: Kept) -> float:
    """Give the cohesion of one module: how alike the masks of its class' samples are, within its kernels.

    Parameters
    ----------
    masks
        Arrays of shape (samples, kernels) for every masked layer: the kernels that each sample uses.
    module
        The kernels of the class' module.

    Returns
    -------
    float
        From 0 to 1: the mean Jaccard index over pairs of samples; 1 for fewer than two samples.

    """
    used = np.concatenate([masks[path][:, kept] for path, kept in module.items()], axis=1)
    if len(used) < 2:
        return 1.0
    return float(jaccard(used)[np.triu_indices(len(used), 1)].mean())


def jaccard(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give the Jaccard index of every row with every other.

    Parameters
    ----------
    rows
        Sets as booleans, of shape (sets, elements).

    Returns
    -------
    ndarray
        Of shape (sets, sets): elements of both by elements of either; 1 for two empty sets, which are the same.

    """
    ones = rows.astype(np.float64)  # counts are exact in float64, and its products are quick
    both = ones @ ones.T
    sizes = ones.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def _joined(module: Kept) -> NDArray[np.bool_]:
    return np.concatenate([module[path] for path in sorted(module)])


def _width(module: Kept) -> int:
    return sum(kept.size for kept in module.values())

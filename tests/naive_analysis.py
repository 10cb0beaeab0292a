"""What task vectors are like, by definitions and plain numpy: an oracle for the analysis of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Facts:
    """What is true of a tensor's task vectors."""

    nonfinite: list[int]
    zeros: list[int]
    below: list[int]
    base_square: float
    base_product: list[float]
    products: Array
    opposed: Array
    both: Array
    opposite: Array
    differing: Array
    strongest: Array
    kept: Array
    kept_square: Array
    common: Array


def naive_facts(base: Array, models: Sequence[Array], shares: Sequence[float], n: int, m: int) -> Facts:
    """Give all facts about a tensor of a base model and of its fine-tunes."""
    with np.errstate(all="ignore"):
        origin = base.astype(np.float32).ravel()
        tuned = [model.astype(np.float32).ravel() for model in models]
        taus = [_task_vector(values, origin) for values in tuned]
        below = [_below(values, origin) for values in tuned]
    wide = [tau.astype(np.float64) for tau in taus]
    finite = np.where(np.isfinite(origin), origin, 0).astype(np.float64)
    alone = [_prune(tau, np.ones(tau.size, bool), n, m) for tau in taus]
    free, in_turn = np.ones(origin.size, bool), []
    for tau in taus:
        in_turn.append(_prune(tau, free, n, m))
        free &= ~in_turn[-1]
    signs = [np.sign(tau) for tau in taus]
    return Facts(
        nonfinite=[int((~np.isfinite(values)).sum()) for values in (origin, *tuned)],
        zeros=[int((tau == 0).sum()) for tau in taus],
        below=below,
        base_square=float(finite @ finite),
        base_product=[float(finite @ tau) for tau in wide],
        products=np.array([[a @ b for b in wide] for a in wide]),
        opposed=np.array([[-np.minimum(a * b, 0).sum() for b in wide] for a in wide]),
        both=np.array([[((a != 0) & (b != 0)).sum() for b in taus] for a in taus]),
        opposite=np.array([[(a * b < 0).sum() for b in signs] for a in signs]),
        differing=np.array([[(a != b).sum() for b in taus] for a in taus]),
        strongest=np.array([[_strongest(tau, share) for share in shares] for tau in wide]),
        kept=np.array([[a.sum(), b.sum()] for a, b in zip(alone, in_turn, strict=True)]),
        kept_square=np.array(
            [[(tau[a] ** 2).sum(), (tau[b] ** 2).sum()] for tau, a, b in zip(wide, alone, in_turn, strict=True)]
        ),
        common=np.array([[(a & b).sum() for b in alone] for a in alone]),
    )


def _task_vector(values: Array, origin: Array) -> Array:
    greatest = np.finfo(np.float32).max
    tau = np.clip(values - origin, -greatest, greatest)
    return np.where(np.isfinite(values) & np.isfinite(origin), tau, np.float32(0))


def _below(values: Array, origin: Array) -> int:
    lost = values.astype(ml_dtypes.bfloat16).view(np.uint16) == origin.astype(ml_dtypes.bfloat16).view(np.uint16)
    return int(((values != origin) & lost & np.isfinite(values) & np.isfinite(origin)).sum())


def _strongest(tau: Array, share: float) -> float:
    ordered = np.sort(np.abs(tau))[::-1]
    return float((ordered[: ceil(share * tau.size)] ** 2).sum())


def _prune(tau: Array, free: Array, n: int, m: int) -> Array:
    """Mark the n largest of every m free changes; of equal ones the first, and zeros never."""
    marks = np.zeros(tau.size, bool)
    for start in range(0, tau.size, m):
        block = np.where(free[start : start + m], np.abs(tau[start : start + m]), 0)
        order = np.argsort(-block, kind="stable")[:n]
        marks[start + order[block[order] > 0]] = True
    return marks

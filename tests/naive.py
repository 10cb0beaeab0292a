"""The merge methods by their definitions, slowly: the oracle against which kernels and whole merges are tested.

It works on whole tensors, in plain numpy, and sorts with explicit keys. It imports nothing of the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Merged:
    """The result of an oracle for one tensor."""

    output: Array
    """The merged tensor."""
    masks: tuple[Mask, ...] = ()
    """The elements that each model keeps, flattened."""
    taus: tuple[Floats, ...] = ()
    """Each model's task vector, flattened."""
    change: Floats | None = None
    """Output minus base, before rounding, flattened."""


def _float32(array: Array) -> Floats:
    return np.asarray(array).astype(np.float32)


def _magnitudes(tau: Floats) -> list[int]:
    """Give magnitudes as integers, the bits of the absolute values, by which NaN > infinity > any number."""
    return [int(bits) & 0x7FFFFFFF for bits in tau.view(np.uint32)]


def _strongest(candidates: list[int], count: int, claims: list[int], magnitudes: list[int]) -> list[int]:
    """Choose candidates with the fewest claims first, then the largest magnitude, then the lowest index."""
    return sorted(candidates, key=lambda i: (claims[i], -magnitudes[i], i))[:count]


def cabs_masks(
    taus: Sequence[Floats],
    n: Sequence[int],
    m: Sequence[int],
    overlap: str = "forbid",
    conflict_aware: bool = True,
    balanced: bool = True,
) -> tuple[Mask, ...]:
    """Find the elements that each model keeps of its flattened task vector."""
    masks = []
    length = taus[0].size
    claims = [0] * length
    for tau, n_j, m_j in zip(taus, n, m, strict=True):
        magnitudes = _magnitudes(tau)
        seen = claims if conflict_aware else [0] * length
        if balanced:
            blocks = [range(start, min(start + m_j, length)) for start in range(0, length, m_j)]
            counts = [n_j for _ in blocks]
        else:
            blocks, counts = [range(length)], [length * n_j // m_j]
        mask = np.zeros(length, bool)
        for block, count in zip(blocks, counts, strict=True):
            candidates = [i for i in block if magnitudes[i] != 0 and (overlap != "forbid" or seen[i] == 0)]
            for i in _strongest(candidates, count, seen, magnitudes):
                mask[i] = True
        for i in np.flatnonzero(mask):
            claims[i] += 1
        masks.append(mask)
    return tuple(masks)


def merge_kept(contributions: list[np.float32], kind: str) -> np.float32:
    """Merge the contributions of the models that keep an element.

    ``sum`` adds them in order. With ``ties``, several contributions elect the sign of their sum (0 counts as +), and
    the result is the mean of the non-zero contributions with that sign; a sum that is NaN stays NaN.
    """
    total = np.float32(0)
    for value in contributions:
        total = np.float32(total + value)
    if kind == "sum" or len(contributions) < 2 or np.isnan(total):
        return total
    agreeing = [value for value in contributions if (value > 0 if total >= 0 else value < 0)]
    if not agreeing:
        return np.float32(0)
    mean = np.float32(0)
    for value in agreeing:
        mean = np.float32(mean + value)
    return np.float32(mean / np.float32(len(agreeing)))


def _add(base: Floats, change: Floats, shape: tuple[int, ...], out_dtype: DTypeLike) -> Array:
    """Add the change to the base; where the change is zero, the base is copied."""
    return np.where(change == 0, base, base + change).astype(out_dtype).reshape(shape)


def cabs(
    base: Array,
    models: Sequence[Array],
    n: Sequence[int],
    m: Sequence[int],
    weights: Sequence[float],
    out_dtype: DTypeLike,
    overlap: str = "forbid",
    consensus: str = "sum",
    conflict_aware: bool = True,
    balanced: bool = True,
) -> Merged:
    """Merge by CABS, arXiv:2503.01874, algorithm 1, or one of its variations."""
    with np.errstate(all="ignore"):
        base32 = _float32(base).ravel()
        taus = tuple(_float32(model).ravel() - base32 for model in models)
        masks = cabs_masks(taus, n, m, overlap, conflict_aware, balanced)
        change = np.zeros(base32.size, np.float32)
        for i in range(change.size):
            kept = [
                np.float32(np.float32(weight) * tau[i])
                for tau, mask, weight in zip(taus, masks, weights, strict=True)
                if mask[i]
            ]
            change[i] = merge_kept(kept, consensus)
        return Merged(_add(base32, change, np.shape(base), out_dtype), masks, taus, change)


def linear(models: Sequence[Array], weights: Sequence[float], out_dtype: DTypeLike, normalize: bool = True) -> Merged:
    """Sum models by weight and, with `normalize`, divide by the sum of the weights."""
    with np.errstate(all="ignore"):
        total = _float32(models[0]) * np.float32(weights[0])
        divisor = np.float32(weights[0])
        for model, weight in zip(models[1:], weights[1:], strict=True):
            total = total + _float32(model) * np.float32(weight)
            divisor = np.float32(divisor + np.float32(weight))
        return Merged(np.asarray(total / divisor if normalize else total).astype(out_dtype))


def task_arithmetic(
    base: Array,
    models: Sequence[Array],
    weights: Sequence[float],
    out_dtype: DTypeLike,
    lambda_: float = 1.0,
    normalize: bool = False,
) -> Merged:
    """Add lambda times the weighted sum of task vectors to the base, arXiv:2212.04089."""
    with np.errstate(all="ignore"):
        base32 = _float32(base).ravel()
        taus = tuple(_float32(model).ravel() - base32 for model in models)
        change = np.zeros(base32.size, np.float32)
        divisor = np.float32(0)
        for tau, weight in zip(taus, weights, strict=True):
            change = change + np.float32(weight) * tau
            divisor = np.float32(divisor + np.float32(weight))
        if normalize and abs(float(divisor)) >= 1e-8:
            change = change / divisor
        change = np.float32(lambda_) * change
        masks = tuple(tau != 0 for tau in taus)
        return Merged(_add(base32, change, np.shape(base), out_dtype), masks, taus, change)

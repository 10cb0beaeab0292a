"""Sums over task vectors, and the energy of their strongest changes, exact from histograms of magnitudes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.analysis import COUNTS, PAIR_COUNTS, SQUARES
from dovetail.engine.kernels.upper_bits import BINS, LOWER_BINS

SHARES: Final = (0.01, 0.10, 0.25)
"""Shares of a tensor's elements of which the strongest are looked at."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Counts and sums over elements of K task vectors; those of a tensor are the sums of its chunks' in order."""

    nonfinite: Ints
    """NaN and infinite elements of the base model and of each model: [K + 1]."""
    counts: Ints
    """[K, COUNTS]: changes below bfloat16's resolution, elements kept by n:m pruning alone and in turn."""
    squares: Floats
    """[K, SQUARES]: squares of what is kept alone and in turn."""
    pairs: Ints
    """[K, K, PAIR_COUNTS]: elements that both change, that they change in opposite directions, that differ, and that
    both keep alone; below the diagonal."""
    products: Floats
    """[K + 1, K + 1, 2]: sums of products, and of the magnitudes of negative ones; on and below the diagonal, the base
    model last."""
    upper: Ints
    """Elements in each bin by the upper bits of their magnitude: [K, BINS]."""
    uneven: Ints
    """How many of these are uneven."""
    energies: Floats
    """The squares of the uneven elements."""

    def add(self, other: Sums) -> None:
        """Add the sums of the next chunk."""
        for name in ("nonfinite", "counts", "squares", "pairs", "products", "upper", "uneven", "energies"):
            getattr(self, name)[...] += getattr(other, name)


@dataclass(frozen=True, slots=True, eq=False)
class Lower:
    """Histograms of lower magnitude bits in the bins that are open."""

    counts: NDArray[np.uint32] | Ints
    """[R, LOWER_BINS], one for each of `Measured.open`."""
    nonfinite: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Empty: the first sweep has counted these."""


@dataclass(frozen=True, slots=True)
class OpenCut:
    """A cut that goes through the uneven elements of a bin."""

    model: int
    """Which model."""
    share: int
    """Which of `SHARES`."""
    bin: int
    """The bin, by the upper bits of magnitudes."""
    rest: int
    """How many of its elements are among the strongest."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is known of a tensor's task vectors; see `Sums` for the first five."""

    nonfinite: Ints
    counts: Ints
    squares: Floats
    pairs: Ints
    products: Floats
    zeros: Ints
    """Elements that each model does not change: [K]."""
    strongest: Floats
    """Squares of the strongest changes: [K, shares]; without those of open cuts."""
    open: tuple[OpenCut, ...] = ()
    """What the next sweep has to settle."""


def measured(sums: Sums, ranks: Sequence[int]) -> Measured:
    """Give what the first sweep has found; `ranks` say how many elements are the strongest, by share."""
    models = len(sums.upper)
    strongest, zeros, open_ = np.zeros((models, len(ranks))), np.zeros(models, np.int64), list[OpenCut]()
    for model in range(models):
        bins = np.flatnonzero(sums.upper[model])[::-1]  # from the strongest down; most bins are empty
        counts, uneven = sums.upper[model][bins], sums.uneven[model][bins]
        even_square, energies = _upper_values()[bins] ** 2, sums.energies[model][bins]
        whole = energies + (counts - uneven) * even_square
        until = np.cumsum(counts)
        if bins.size and bins[-1] == 0:
            zeros[model] = counts[-1] - uneven[-1]
        for share, rank in enumerate(ranks if bins.size else ()):
            cut = int(np.searchsorted(until, rank))
            rest = rank - int(until[cut] - counts[cut])
            strongest[model, share] = float(whole[:cut].sum())
            if rest >= uneven[cut]:  # a bin has its uneven elements first: they are the larger ones
                strongest[model, share] += float(energies[cut] + (rest - uneven[cut]) * even_square[cut])
            else:
                open_.append(OpenCut(model, share, int(bins[cut]), rest))
    return Measured(sums.nonfinite, sums.counts, sums.squares, sums.pairs, sums.products, zeros, strongest, (*open_,))


def settle(state: Measured, lower: Ints) -> Measured:
    """Give what the second sweep makes of what the first has found."""
    strongest = state.strongest.copy()
    for cut, counts in zip(state.open, lower, strict=True):
        strongest[cut.model, cut.share] += _energy(_lower_values(cut.bin), counts, cut.rest)
    return replace(state, strongest=strongest, open=())


def _energy(values: Floats, counts: Ints, rest: int) -> float:
    """Sum the squares of the `rest` largest elements, of which `counts` tells how many have each value, ascending."""
    above = np.cumsum(counts[::-1])[::-1]
    taken = np.minimum(counts, np.maximum(0, rest - (above - counts)))
    return float((taken * values**2).sum())


@functools.cache
def _upper_values() -> Floats:
    """Give the least magnitude of every bin; those of infinity and NaN are zero, as nothing is in them."""
    bits = np.arange(BINS, dtype=np.uint32) << np.uint32(16)
    values = bits.view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0.0)).astype(np.float64)


def _lower_values(place: int) -> Floats:
    """Give the magnitudes of one bin."""
    bits = np.uint32(place << 16) + np.arange(LOWER_BINS, dtype=np.uint32)
    return bits.view(np.float32).astype(np.float64)


def no_sums(models: int, bins: int = BINS) -> Sums:
    """Make zeros for so many models, with histograms of so many bins."""
    return Sums(
        np.zeros(models + 1, np.int64),
        np.zeros((models, COUNTS), np.int64),
        np.zeros((models, SQUARES)),
        np.zeros((models, models, PAIR_COUNTS), np.int64),
        np.zeros((models + 1, models + 1, 2)),
        np.zeros((models, bins), np.int64),
        np.zeros((models, bins), np.int64),
        np.zeros((models, bins)),
    )

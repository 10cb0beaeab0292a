"""What the scores of `quality.py` can carry: means, bootstrap intervals, wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Correct = NDArray[np.bool_]
"""Whether each test text was given its class."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the range in which 95% of its bootstrap replicates are."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, replicates: NDArray[np.float64]) -> Interval:
        """Make it of a mean and its replicates."""
        low, high = np.quantile(replicates, (0.025, 0.975))
        return cls(float(mean), float(low), float(high))


def pack(correct: Correct) -> dict[str, Any]:
    """Write which texts were right as JSON."""
    return {"texts": int(correct.size), "right": np.packbits(correct).tobytes().hex()}


def unpack(packed: Mapping[str, Any]) -> Correct:
    """Read what `pack` wrote."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed["right"]), np.uint8))
    return bits[: packed["texts"]].astype(bool)


class Bootstrap:
    """Replicates of the accuracies of methods, over the same seeds, tasks and texts.

    A replicate draws as many seeds as there are, with replacement, and for each of them texts of every task; all
    methods are looked at on the same draws, so that what they have in common cancels in differences. Tasks are not
    drawn: what is found is found for these tasks. With several seeds, whose spread has the luck of their texts in it
    already, that luck counts twice: intervals are too wide then, rather than too narrow.

    Parameters
    ----------
    cells
        For every seed and task, the answers of all methods by name; each cell has the same methods, and a cell's
        answers are to the same texts.
    replicates
        Number of replicates.
    seed
        Of the draws.

    """

    def __init__(self, cells: Sequence[Sequence[Mapping[str, Correct]]], replicates: int = 4000, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.names = tuple(cells[0][0])
        """The methods."""
        tasks = len(cells[0])
        self.cells = np.array([[[each[name].mean() for name in self.names] for each in row] for row in cells])
        """Accuracies by seed, task and method."""
        drawn = np.zeros((len(cells), replicates, len(self.names)))
        for seed_place, row in enumerate(cells):
            for answers in row:
                right = np.array([answers[name] for name in self.names], np.float64)
                texts = right.shape[1]
                weights = random.multinomial(texts, np.full(texts, 1 / texts), replicates) / texts
                drawn[seed_place] += weights @ right.T / tasks
        seeds = random.integers(len(cells), size=(len(cells), replicates))
        self._replicates = drawn[seeds, np.arange(replicates)].mean(0)

    def accuracy(self, name: str) -> Interval:
        """Give the mean accuracy of a method over seeds and tasks."""
        place = self.names.index(name)
        return Interval.of(self.cells[..., place].mean(), self._replicates[:, place])

    def difference(self, name: str, other: str) -> Interval:
        """Give by how much a method is more accurate than another."""
        one, two = self.names.index(name), self.names.index(other)
        difference = self.cells[..., one] - self.cells[..., two]
        return Interval.of(difference.mean(), self._replicates[:, one] - self._replicates[:, two])

    def wins(self, name: str, other: str) -> float:
        """Give the share of seeds and tasks in which a method is more accurate than another; a draw counts half."""
        difference = self.cells[..., self.names.index(name)] - self.cells[..., self.names.index(other)]
        return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Give the rank of every value, from 0; equal values share the mean of their ranks."""
    every = np.asarray(values, np.float64)
    below = (every[None] < every[:, None]).sum(1)
    equal = (every[None] == every[:, None]).sum(1)
    return below + (equal - 1) / 2


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Give Spearman's coefficient."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])

"""Bracketing magnitudes of wanted ranks from a small sample of a tensor, so that one pass over all of it finds them.

A sample is some runs of elements, spread over the tensor: how many, where, and how long depends on the tensor's length
alone. The magnitude at the wanted rank of the sample estimates that of the tensor. How far off it can be follows from
the number of larger magnitudes in each run: neighbouring elements are alike, so that a run tells less than its length
suggests, and what counts is how much runs differ among each other (cluster sampling: Cochran, Sampling Techniques,
1977, section 9.4). Floyd and Rivest (1975, https://doi.org/10.1145/360680.360691) select from brackets in this way.

Nothing that a sample says is taken on trust: the pass over all elements tells whether the magnitude lies inside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_LENGTH: Final = 1 << 19
"""Tensors of fewer elements are not sampled: passes over them cost next to nothing."""

DEVIATIONS: Final = 5.5
"""Distance of a bracket's edges from its middle in standard deviations: about one in 26 million samples misses, as far
as the number of larger elements in a sample is normally distributed."""

ALL_MAGNITUDES: Final = 0x7FFFFFFF
"""A bracket's upper edge where there is none."""

RUN: Final = 256
"""Most elements of a run. More of them would tell little more, being alike, and more runs cost more pages."""

MOST_ELEMENTS: Final = 1 << 20
"""Most elements of a sample: runs are shorter where there are many."""

_LEAST_RUNS: Final = 256
_MOST_RUNS: Final = 1 << 14
_ELEMENTS_PER_RUN: Final = 1 << 15
"""Elements of a tensor for each run of its sample: one page in sixteen of a tensor of bfloat16, or fewer."""

_GOLDEN: Final = 0.6180339887498949
"""Its multiples are spread evenly over fractions, without any period that rows could share."""

Bracket = tuple[int, int]
"""Least and greatest magnitude bits."""

Magnitudes = NDArray[np.uint32]


def _count(length: int) -> int:
    return min(_MOST_RUNS, max(_LEAST_RUNS, length // _ELEMENTS_PER_RUN))


def run_elements(length: int) -> int:
    """Give the number of elements of a run of a tensor's sample."""
    return min(RUN, MOST_ELEMENTS // _count(length))


@lru_cache(maxsize=8)  # the runs of a tensor of 2^29 elements or more take 2 MiB
def runs(length: int) -> list[tuple[int, int]]:
    """Give the runs of elements, first and one past the last, that make up the sample of a tensor.

    Parameters
    ----------
    length
        Elements of the tensor, at least `LEAST_LENGTH`.

    """
    count, size, found = _count(length), run_elements(length), []
    for index in range(count):
        begin, end = index * length // count, (index + 1) * length // count
        start = begin + int((end - begin - size) * (index * _GOLDEN % 1.0))
        found.append((start, start + size))
    return found


def sample_elements(length: int) -> int:
    """Give the number of elements of a tensor's sample."""
    return _count(length) * run_elements(length) if length >= LEAST_LENGTH else 0


class Sample:
    """The magnitudes of one task vector in the runs of a sample.

    Parameters
    ----------
    magnitudes
        Magnitude bits, run after run.
    length
        Elements of the tensor.

    """

    def __init__(self, magnitudes: Magnitudes, length: int) -> None:
        self._runs = magnitudes.reshape(-1, run_elements(length))
        self._ascending = np.sort(self._runs, axis=None)

    @property
    def nonzero(self) -> float:
        """The share of magnitudes that are not zero."""
        return 1.0 - int(np.searchsorted(self._ascending, 1)) / self._ascending.size

    def bracket(self, share: float) -> Bracket:
        """Give magnitudes between which that of a rank is expected.

        Parameters
        ----------
        share
            The rank, counted from the greatest magnitude, over the number of elements; between 0 and 1.

        """
        size = self._ascending.size
        place = share * size
        middle = self._ascending[size - 1 - min(size - 1, int(place))]
        spread = DEVIATIONS * max(self._deviation(middle), self._deviation(middle + np.uint32(1)))
        first, last = int(np.floor(place - spread)) - 1, int(np.ceil(place + spread))
        high = ALL_MAGNITUDES if first < 0 else int(self._ascending[size - 1 - first])
        low = 0 if last >= size else int(self._ascending[size - 1 - last])
        return max(1, low), max(1, high)  # zeros have no rank

    def inside(self, bracket: Bracket) -> float:
        """Estimate the share of elements with magnitudes strictly inside a bracket that differ among each other."""
        low, high = bracket
        begin, end = np.searchsorted(self._ascending, [low + 1, high])
        part = self._ascending[begin:end]
        # Where the sample has many equal magnitudes, a larger one finds few others.
        distinct = 1 + int(np.count_nonzero(np.diff(part))) if part.size else 0
        return distinct / self._ascending.size

    def _deviation(self, edge: np.uint32) -> float:
        """Estimate the standard deviation of the number of magnitudes of at least `edge` in samples such as this."""
        counts = np.count_nonzero(self._runs >= edge, axis=1)
        share = counts.mean() / self._runs.shape[1]
        apart = counts.size * counts.var(ddof=1)
        alone = self._runs.size * share * (1.0 - share)
        return float(np.sqrt(max(apart, alone, 1.0)))

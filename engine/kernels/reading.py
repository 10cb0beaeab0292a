"""Decoding tiles of several stored tensors at once, while the processor fetches the next ones."""

from __future__ import annotations

import numpy as np
from numba import njit

from dovetail.engine.kernels.convert import ITEMSIZES, decode
from dovetail.engine.kernels.prefetch import fetch_ahead
from dovetail.engine.kernels.statistics import count_nonfinite

STEP = 1024
"""Elements of each source that are decoded at a time: few enough for the L1 cache."""


@njit(nogil=True, cache=True)
def read_tile(sources, codes, start, stop, end, lines):  # type: ignore[no-untyped-def]
    """Decode elements ``start:stop`` of each source into a line, and ask for as many after them, up to `end`.

    Parameters
    ----------
    sources : tuple of uint8[:]
        Stored bytes.
    codes : int64[:]
        Their dtype codes.
    start, stop, end : int
        Indices of elements.
    lines : float32[:, :]
        One line for each source.

    """
    for source in range(len(lines)):
        raw, size = sources[source], ITEMSIZES[codes[source]]
        decode(raw, codes[source], start, stop, lines[source, : stop - start])
        fetch_ahead(raw[size * stop : size * min(2 * stop - start, end)], 0, 1, 1)


@njit(nogil=True, cache=True)
def count_stored(sources, codes, start, stop, nonfinite):  # type: ignore[no-untyped-def]
    """Count the NaN and infinite elements among elements ``start:stop`` of each source, in addition to `nonfinite`."""
    values = np.empty(STEP, np.float32)
    for source in range(len(nonfinite)):
        for first in range(start, stop, STEP):
            tile = values[: min(first + STEP, stop) - first]
            decode(sources[source], codes[source], first, first + len(tile), tile)
            nonfinite[source] += count_nonfinite(tile)

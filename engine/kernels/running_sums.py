"""Sums over a task vector and over the part of it that is kept, in one sweep, and tile by tile.

The order of additions is that of `sums`, and so are the bits: a run that is added in tiles gives what one call would
give. Every tile but the last of a run consists of whole rows of `ROW` elements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

LANES = 32
"""Partial sums in float64 of each sum, as in `sums`."""
ROW = 4 * LANES
"""Elements added to the lanes at a time, as in `sums`."""
_ZERO = np.float32(0.0)


@njit(nogil=True, cache=True, inline="always")
def _square(value: float) -> float:
    return value * value


@njit(nogil=True, cache=True, inline="always")
def _magnitude(value: float) -> float:
    return abs(value)


@njit(nogil=True, cache=True, inline="always")
def _add(values: np.ndarray, mask: np.ndarray, lanes: np.ndarray, term: Callable[[float], float]) -> int:
    """Add whole rows to the lanes of the sums, and give the number of elements in them."""
    whole, part = lanes[0], lanes[1]
    rows = len(values) // ROW
    for row in range(rows):
        a, m = values[row * ROW : (row + 1) * ROW], mask[row * ROW : (row + 1) * ROW]
        for lane in range(LANES):
            a0, a1, a2, a3 = a[lane], a[lane + LANES], a[lane + 2 * LANES], a[lane + 3 * LANES]
            t0, t1 = term(np.float64(a0)), term(np.float64(a1))
            t2, t3 = term(np.float64(a2)), term(np.float64(a3))
            whole[lane] += t0 + t1 + t2 + t3
            # Chosen in float32, because twice as many fit into a vector.
            k0, k1 = a0 if m[lane] != 0 else _ZERO, a1 if m[lane + LANES] != 0 else _ZERO
            k2, k3 = a2 if m[lane + 2 * LANES] != 0 else _ZERO, a3 if m[lane + 3 * LANES] != 0 else _ZERO
            t0, t1 = term(np.float64(k0)), term(np.float64(k1))
            t2, t3 = term(np.float64(k2)), term(np.float64(k3))
            part[lane] += t0 + t1 + t2 + t3
    return rows * ROW


@njit(nogil=True, cache=True, inline="always")
def _finish(
    values: np.ndarray, mask: np.ndarray, lanes: np.ndarray, term: Callable[[float], float]
) -> tuple[float, float]:
    """Add up the lanes, and the elements that do not fill a row; clear the lanes."""
    whole, part = 0.0, 0.0
    for lane in range(LANES):
        whole += lanes[0, lane]
        part += lanes[1, lane]
    for i in range(len(values)):
        whole += term(np.float64(values[i]))
        part += term(np.float64(values[i] if mask[i] != 0 else _ZERO))
    lanes[:] = 0.0
    return whole, part


@njit(nogil=True, cache=True)
def add_magnitudes(values: np.ndarray, mask: np.ndarray, lanes: np.ndarray, is_last: bool) -> tuple[float, float]:
    """Add a tile to the sums of magnitudes of a run.

    Parameters
    ----------
    values : float32[:]
        The tile of the task vector, contiguous.
    mask : uint8[:]
        1 for each element that is kept, else 0.
    lanes : float64[2, LANES]
        The sums so far; zeros before the first tile of a run, and again after the last.
    is_last : bool
        Whether this is the last tile of the run.

    Returns
    -------
    (float, float)
        After the last tile the sum over the task vector and that over its kept part, else zeros.

    """
    # Slow equivalent: sum_magnitudes(run), sum_magnitudes(np.where(mask, run, 0))
    done = _add(values, mask, lanes, _magnitude)
    return _finish(values[done:], mask[done:], lanes, _magnitude) if is_last else (0.0, 0.0)


@njit(nogil=True, cache=True)
def add_squares(values: np.ndarray, mask: np.ndarray, lanes: np.ndarray, is_last: bool) -> tuple[float, float]:
    """Add a tile to the sums of squares of a run; parameters and results are those of `add_magnitudes`."""
    # Slow equivalent: sum_squares(run), sum_squares(np.where(mask, run, 0))
    done = _add(values, mask, lanes, _square)
    return _finish(values[done:], mask[done:], lanes, _square) if is_last else (0.0, 0.0)

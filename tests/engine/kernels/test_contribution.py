"""Claims, contributions and sums after a selection; memory asked for ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from dovetail.engine.kernels.contribution import LANES, claim_and_add
from dovetail.engine.kernels.prefetch import fetch_ahead


@njit
def _claim_and_add(marks, tau, weight, free, base, before, after, start, stop):  # type: ignore[no-untyped-def]
    """Make the intrinsic callable from Python."""
    return claim_and_add(marks, tau, weight, free, base, before, after, start, stop)


def _tile(length: int) -> dict[str, Any]:
    """Make a tile with the room that vectors need, and -0.0 in the base."""
    random = np.random.default_rng(length)
    size = length + LANES
    free = random.choice(np.array([0, 0xFFFF], np.uint16), size)
    return {
        "marks": random.choice(np.array([0, 0xFFFF], np.uint16), size) & free,
        "tau": random.choice(np.array([0, -0.0, 1e-3, -2.5, 1e30], np.float32), size),
        "free": free,
        "base": random.choice(np.array([-0.0, 0.5, 3.0], np.float32), size),
        "before": random.standard_normal(size).astype(np.float32),
    }


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (0, 320), (7, 40), (5, 37), (3, 1000)])
@pytest.mark.parametrize("weight", [0.7, -0.0])
def test_marked_elements_are_claimed_and_added(start: int, stop: int, weight: float) -> None:
    """Base plus change where marked and not zero, all else as before; counts are exact, sums agree."""
    tile, after = _tile(1000), np.full(1000 + LANES, np.nan, np.float32)
    part = slice(start, stop)
    free, marked, tau = tile["free"].copy(), tile["marks"][part] != 0, tile["tau"][part]
    found, total, kept = _claim_and_add(
        tile["marks"], tile["tau"], np.float32(weight), free, tile["base"], tile["before"], after, start, stop
    )
    change = np.float32(weight) * tau
    moved = marked & (change != 0)
    expected = np.where(moved, tile["base"][part] + change, tile["before"][part]).astype(np.float32)
    assert expected.tobytes() == after[part].tobytes()
    assert (tile["free"][part] & ~tile["marks"][part]).tobytes() == free[part].tobytes()
    squares = tau.astype(np.float64) ** 2
    assert int(marked.sum()) == found
    np.testing.assert_allclose([squares.sum(), squares[marked].sum()], [total, kept], rtol=1e-14)


def test_sums_are_added_in_a_fixed_order() -> None:
    """Element i goes to sum i modulo `LANES`, and the second half of the sums to the first until one is left."""
    tile, after = _tile(777), np.empty(777 + LANES, np.float32)
    _, total, _ = _claim_and_add(
        tile["marks"], tile["tau"], np.float32(1), tile["free"], tile["base"], tile["before"], after, 0, 777
    )
    sums = np.zeros(LANES)
    for i, value in enumerate(tile["tau"][:777]):
        sums[i % LANES] += float(value) * float(value)
    while sums.size > 1:
        sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
    assert float(sums[0]) == total


def test_asking_ahead_keeps_pace_with_the_work() -> None:
    """All is asked for when the work is done, nothing when there is nothing, and never more than once."""
    memory = np.zeros(1000, np.uint8)
    memory.flags.writeable = False
    fetched = 0
    for done in (0, 10, 25, 50):
        before, fetched = fetched, fetch_ahead(memory, fetched, done, 50)
        assert before <= fetched < 1000 * done // 50 + 64
    assert fetched >= 1000
    assert 0 == fetch_ahead(memory[:0], 0, 50, 50)

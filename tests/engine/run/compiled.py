"""A small kernel that tests compile in caches of their own."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sum(values: object) -> float:
    total = 0.0
    for value in values:  # type: ignore[attr-defined]
        total += value * value
    return total


def mean_of_squares() -> None:
    """Call it, as `dovetail.engine.run.warm.warm_up` calls what it loads."""
    assert 4.0 == _sum(np.ones(4))

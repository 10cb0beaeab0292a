"""Random numbers made of raw bits, which stay the same in any version of numpy."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray


def uniform(name: str, count: int, seed: int) -> NDArray[np.float64]:
    """Give numbers that are spread evenly from -1 to 1, and depend on nothing but the arguments.

    Parameters
    ----------
    name
        What the numbers are for; another name gives other numbers.
    count
        How many.
    seed
        Seed of all names.

    """
    key = xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=seed % 2**64)
    values: NDArray[np.float64] = (np.random.Philox(key=key).random_raw(count) >> np.uint64(11)).astype(np.float64)
    values *= 2.0**-52
    values -= 1.0
    return values


def normal(name: str, count: int, seed: int) -> NDArray[np.float64]:
    """Give standard normal numbers, by Box and Muller's formula; see `uniform` for the arguments."""
    pairs = (count + 1) // 2
    radius, angle = uniform(name, 2 * pairs, seed).reshape(2, pairs)
    radius = np.sqrt(-2.0 * np.log((radius + 1.0) / 2.0 + 2.0**-54))
    return np.concatenate((radius * np.cos(np.pi * angle), radius * np.sin(np.pi * angle)))[:count]

"""Hypothesis strategies for tensors that are hard on merge methods: ties, exact zeros, -0.0, NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.kernels.drive import DTYPES

Array = NDArray[Any]

JITTED = not numba.config.DISABLE_JIT
"""Whether kernels are compiled; as plain Python they are about a thousand times slower, so sizes are reduced."""

LONGEST = 300 if JITTED else 40
"""Most elements of a drawn tensor."""


LONG = max(1, settings.default.max_examples // 40)
"""How many times as many examples are tried with ``--hypothesis-profile long``."""

MOST_MODELS = 3 if JITTED and LONG == 1 else 5
"""Most models of a drawn merge: each number of them is compiled anew, for seconds, and no code tells 3 from 5."""


def examples(count: int) -> int:
    """Give the number of examples of a test: `count`, or fewer unjitted, or more with ``--hypothesis-profile long``."""
    return (count if JITTED else max(10, count // 3)) * LONG


@dataclass(frozen=True)
class Sources:
    """A base model's tensor and its fine-tunes."""

    base: Array
    """The base model's tensor."""
    models: tuple[Array, ...]
    """The models' tensors."""
    out_dtype: np.dtype[Any]
    """Dtype of the output."""


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Shapes of 0 to 4 dimensions, empty ones included; most are as long as allowed."""
    dimensions = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 0]))
    if dimensions == 0:
        return ()
    if draw(st.integers(0, 19)) == 19:
        return (*(2,) * (dimensions - 1), 0)
    left, shape = draw(st.integers(1, LONGEST) | st.integers(LONGEST // 2, LONGEST)), []
    for _ in range(dimensions - 1):
        shape.append(draw(st.integers(1, min(left, 4))))
        left //= shape[-1]
    return (*shape, left)


def make_values(
    random: np.random.Generator, shape: tuple[int, ...], base: Array | None, style: str
) -> NDArray[np.float64]:
    """Make a tensor near `base`: of few distinct changes (``ties``), of any, or with special values."""
    if style == "ties":
        change = random.integers(-3, 4, shape) / 8.0
    else:
        change = random.standard_t(3, shape) * 0.1
        change = np.where(random.random(shape) < 0.3, 0.0, change)
    values = np.asarray(change if base is None else base.astype(np.float64) + change, np.float64)
    if style == "special":
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, 3e38, -3e38, 6e-8, 1e300])
        values = np.where(random.random(shape) < 0.2, random.choice(special, shape), values)
    return np.where(random.random(shape) < 0.1, -0.0, values)


@st.composite
def sources(draw: st.DrawFn, most_models: int = MOST_MODELS) -> Sources:
    """Draw a base tensor and 1 to `most_models` fine-tunes, with a dtype drawn for each."""
    shape = draw(shapes())
    count = draw(st.integers(1, most_models))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    style = draw(st.sampled_from(["ties", "plain", "special"]))
    common = draw(st.none() | st.sampled_from(DTYPES))
    dtypes = [common or draw(st.sampled_from(DTYPES)) for _ in range(count + 2)]
    with np.errstate(all="ignore"):
        base = make_values(random, shape, None, style).astype(dtypes[0])
        models = tuple(make_values(random, shape, base, style).astype(dtype) for dtype in dtypes[1 : count + 1])
    return Sources(base, models, dtypes[-1])


@st.composite
def ratios(draw: st.DrawFn, count: int, longest: int = 40) -> list[tuple[int, int]]:
    """Draw n:m for `count` models: the same for all, or one for each."""
    lengths = st.integers(2, 8) | st.integers(1, longest)
    one = lengths.flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m)))
    if draw(st.booleans()):
        return [draw(one)] * count
    return draw(st.lists(one, min_size=count, max_size=count))


WEIGHTS = st.sampled_from([1.0, 0.5, -0.7, 1.2, 0.0, 0.3333333333])
"""Weights of models."""


def model_parameters(draw: st.DrawFn, count: int) -> list[dict[str, Any]]:
    """Draw weights and n:m of `count` models."""
    return [{"weight": draw(WEIGHTS), "n": n, "m": m} for n, m in draw(ratios(count))]

"""Merging the marked parts of task vectors in one sweep over all models, by the definition of every step."""

from __future__ import annotations

import platform
import re

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels import merging
from dovetail.engine.kernels.merging import begin_sums, close_run, merge_tile
from dovetail.engine.kernels.sums import ROW
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import bits
from tests.engine.kernels.test_sums import add_in_lanes

Floats = NDArray[np.float32]
ZERO, ONE = np.float32(0), np.float32(1)


def strided(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy rows of marks into longer ones, which the kernels that call these have: one kind of arrays is compiled."""
    made = np.zeros((len(bits), bits.shape[1] + 8), np.uint8)[:, : bits.shape[1]]
    made[:] = bits
    return made


def change_of(
    taus: Floats, masks: NDArray[np.uint8], factors: Floats, options: tuple[bool, bool, np.float32, np.float32]
) -> Floats:
    """Add or elect, model by model, and scale."""
    voting, normalize, divisor, factor = options
    added = [
        np.where(mask != 0, weight * (scale * tau), ZERO)
        for tau, mask, scale, weight in zip(taus, masks, *factors, strict=True)
    ]
    total = value = shares = np.zeros(taus.shape[1], np.float32)
    for each in added:
        total = total + each
    for each, weight in zip(added, factors[1], strict=True):
        agrees = ((each > 0) & (total >= 0)) | ((each < 0) & ~(total >= 0))
        value, shares = np.where(agrees, value + each, value), np.where(agrees, shares + weight, shares)
    if normalize:
        value = np.where(shares == 0, value, value / shares)
    elected = np.where(np.isnan(total), total, value)
    return np.asarray((elected if voting else total) / divisor * factor, np.float32)


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([2, 3, 12]),
    rows=st.integers(0, 2),
    last=st.integers(0, 2 * ROW),
    style=st.sampled_from(["ties", "plain", "special"]),
    options=st.tuples(st.booleans(), st.booleans(), st.sampled_from([1.0, 1.5]), st.sampled_from([1.0, -0.3])),
)
@example(seed=1, count=3, rows=1, last=ROW, style="special", options=(True, True, 1.0, 1.0))
def test_every_step_is_that_of_the_definition(
    seed: int, count: int, rows: int, last: int, style: str, options: tuple[bool, bool, float, float]
) -> None:
    """A run in two tiles has the change of the definition, and its sums of squares in their order of additions."""
    random = np.random.default_rng(seed)
    voting, normalize, divisor, factor = options
    how = voting, normalize, np.float32(1 if voting else divisor), np.float32(factor)
    length = rows * ROW + last
    room = (length // ROW + 1) * ROW  # never none beyond the first tile
    factors = random.choice(np.array([1.0, -0.7, 0.0, 1 / 3, -1.0], np.float32), (2, count))
    masks = (random.random((count, room)) < 0.6).astype(np.uint8)
    marks = strided(np.packbits(masks, axis=1, bitorder="little"))
    sums, merged = begin_sums(count), np.full(room, 9, np.float32)
    squares = np.ones(2 * count + 1)
    with np.errstate(all="ignore"):
        lines = make_values(random, (count + 1, room), None, style).astype(np.float32)
        merge_tile(lines, marks, factors, how, rows * ROW, sums, merged)
        rest, begin = slice(rows * ROW, None), rows * ROW
        tile = lines[:, rest].copy(), marks[:, begin // 8 :]
        merge_tile(*tile, factors, how, last, sums, merged[rest])
        is_finite = close_run(*tile, last, sums, squares)
        base, taus, masks = lines[0, :length], (lines[1:] - lines[0])[:, :length], masks[:, :length]
        change = change_of(taus, masks, factors, how)
        expected = np.where(change == 0, base, base + change)
        vectors = [*taus, *np.where(masks != 0, taus, ZERO), change]
        added = [add_in_lanes(vector.astype(np.float64) ** 2) for vector in vectors]
    np.testing.assert_array_equal(bits(expected), bits(merged[:length]))
    np.testing.assert_array_equal(1 + np.array(added), squares)
    assert bool(np.isfinite(taus).all()) == is_finite
    assert not sums[0][0].any()


@pytest.mark.parametrize("voting", [False, True])
def test_of_several_nan_the_same_is_always_passed_on(voting: bool) -> None:
    """Whatever order the machine code adds in, an election passes on the first NaN, and a sum the last one."""
    for signs in ((1, -1), (-1, 1)):
        lines = np.zeros((3, ROW), np.float32)
        lines[1:] = np.copysign(np.float32(np.nan), np.array(signs, np.float32))[:, None]
        merged, sums = np.empty(ROW, np.float32), begin_sums(2)
        marks, factors = strided(np.full((2, ROW // 8), 255, np.uint8)), np.ones((2, 2), np.float32)
        merge_tile(lines, marks, factors, (voting, False, ONE, ONE), ROW, sums, merged)
        assert [signs[0 if voting else 1] < 0] * ROW == np.signbit(merged).tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_nan_of_a_model_goes_before_those_that_are_made_of_it(sign: int) -> None:
    """The base model's NaN is passed on rather than the change's, and the task vector's rather than the scale's."""
    nan = np.copysign(np.float32(np.nan), np.float32(sign))
    for place, scale in ((0, ONE), (1, -nan)):
        lines = np.zeros((3, ROW), np.float32)  # the last model changes nothing
        lines[1] = -nan
        lines[place] = nan
        merged, sums = np.empty(ROW, np.float32), begin_sums(2)
        marks, factors = (
            strided(np.full((2, ROW // 8), 255, np.uint8)),
            np.array([[scale, ONE], [ONE, ONE]], np.float32),
        )
        merge_tile(lines, marks, factors, (True, False, ONE, ONE), ROW, sums, merged)
        assert [sign < 0] * ROW == np.signbit(merged).tolist()


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_the_sweep_is_vector_code() -> None:
    """All four kinds of merges are packed, and no product of float32 is fused with a sum."""
    floats, line = numba.float32[:, ::1], numba.float32[::1]
    swept = numba.njit(nogil=True)(merging._merge_compiled.py_func)
    options = numba.types.Tuple((numba.boolean, numba.boolean, numba.float32, numba.float32))
    sizes, lanes = (numba.int64, numba.int64), numba.float64[:, ::1]
    swept.compile((floats, numba.uint8[:, ::1], floats, options, *sizes, lanes, line, floats, line))
    (assembly,) = swept.inspect_asm().values()
    assert re.search(r"fmadd\w*(ps|ss)\b", assembly) is None
    needed = ("mulps", "addps", "subps", "divps", "cvtps2pd")
    assert [name for name in needed if re.search(rf"\bv?{name}\b", assembly)] == list(needed)

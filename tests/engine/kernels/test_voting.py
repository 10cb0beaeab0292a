"""Elections of signs in one sweep over all models."""

from __future__ import annotations

import platform
import re

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.election import add_voting, elect_signs
from dovetail.engine.kernels.voting import GROUP, vote
from tests.engine.kernels.cases import JITTED, examples, make_values
from tests.engine.kernels.drive import bits

Floats = NDArray[np.float32]


def voted(taus: Floats, masks: NDArray[np.uint8], factors: Floats, normalize: bool) -> Floats:
    """Elect a sign for every element, by the definition."""
    found = []
    zero = np.float32(0)
    for element in range(taus.shape[1]):
        contributions = [
            weight * (scale * tau) if mask else zero
            for tau, mask, scale, weight in zip(taus[:, element], masks[:, element], *factors, strict=True)
        ]
        total, value, divisor = zero, zero, zero
        for each in contributions:
            total = total + each
        for each, weight in zip(contributions, factors[1], strict=True):
            if (each > 0 and total >= 0) or (each < 0 and not total >= 0):
                value, divisor = value + each, divisor + weight
        value = value if not normalize or divisor == 0 else value / divisor
        found.append(total if np.isnan(total) else value)
    return np.array(found, np.float32)


@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 6),
    length=st.integers(0, 3 * GROUP),
    style=st.sampled_from(["ties", "plain", "special"]),
    normalize=st.booleans(),
)
def test_elections_are_those_of_the_definition(seed: int, count: int, length: int, style: str, normalize: bool) -> None:
    """Only contributions with the sign of the sum count, in order; and the kernels for one model at a time agree."""
    random = np.random.default_rng(seed)
    room = -(-length // GROUP) * GROUP
    change = np.full(room, 9, np.float32)
    masks = (random.random((count, room)) < 0.6).astype(np.uint8)
    factors = random.choice(np.array([1.0, -0.7, 0.0, 1 / 3, -1.0], np.float32), (2, count))
    with np.errstate(all="ignore"):
        taus = make_values(random, (count, room), None, style).astype(np.float32)
        vote((0,) * count, taus, masks, factors, normalize, length, change)
        expected = voted(taus[:, :length], masks[:, :length], factors, normalize)
        sums, one_by_one = np.zeros((5, length), np.float32), np.empty(length, np.float32)
        for tau, mask, scale, weight in zip(taus, masks, *factors, strict=True):
            add_voting(tau[:length], mask[:length], scale, weight, weight, sums)
        elect_signs(sums, normalize, np.float32(-np.inf), one_by_one)
    np.testing.assert_array_equal(bits(expected), bits(change[:length]))
    np.testing.assert_array_equal(bits(one_by_one), bits(change[:length]))


@pytest.mark.skipif(not JITTED or platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_elections_are_vector_code() -> None:
    """Both kinds of elections, and that of one model at a time, are packed, and no product is fused with a sum."""
    floats = numba.float32[:, ::1]
    swept = numba.njit(nogil=True)(vote.py_func)
    sources = numba.types.UniTuple(numba.int64, 3)
    swept.compile((sources, floats, numba.uint8[:, ::1], floats, numba.boolean, numba.int64, numba.float32[::1]))
    apart = numba.njit(nogil=True, error_model="numpy")(elect_signs.py_func)
    apart.compile((floats, numba.boolean, numba.float32, numba.float32[::1]))
    for kernel, needed in ((swept, ("mulps", "addps", "divps")), (apart, ("divps", "cmp\\w*ps"))):
        (assembly,) = kernel.inspect_asm().values()
        assert "fmadd" not in assembly
        assert [name for name in needed if re.search(rf"\bv?{name}\b", assembly)] == list(needed)

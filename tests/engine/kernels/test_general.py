"""Claims in n:m blocks: fixed facts and the oracle, for every meaning of a claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.kernels.general import FORBID, IGNORE, MAX_BLOCK, MINIMIZE, claim_blocks, subtract
from tests import naive
from tests.engine.kernels.cases import JITTED, LONGEST, examples, make_values, ratios
from tests.pace import within

MODES = {
    FORBID: {"overlap": "forbid", "conflict_aware": True},
    MINIMIZE: {"overlap": "minimize", "conflict_aware": True},
    IGNORE: {"overlap": "forbid", "conflict_aware": False},
}
"""Each mode's options in a recipe."""


def claim_all(
    taus: list[NDArray[np.float32]], blocks: list[tuple[int, int]], mode: int
) -> tuple[list[NDArray[np.bool_]], NDArray[np.uint16]]:
    """Let every model claim in turn; give the masks and the claims."""
    claims = np.zeros(taus[0].size, np.uint16)
    masks = []
    for tau, (n, m) in zip(taus, blocks, strict=True):
        # Scratch and outputs hold rubbish at first.
        mask, ranks = np.full(tau.size, 7, np.uint8), np.full(min(m, tau.size), -1, np.int64)
        claim_blocks(tau, n, m, mode, claims, mask, ranks)
        masks.append(mask.astype(bool))
        np.testing.assert_array_equal(mask, masks[-1].astype(np.uint8))
    return masks, claims


@pytest.mark.parametrize("mode", [FORBID, MINIMIZE, IGNORE])
@settings(derandomize=True, deadline=None, max_examples=examples(150))
@given(data=st.data())
def test_masks_equal_the_oracle(mode: int, data: st.DataObject) -> None:
    """Ties, zeros, NaN and infinity, short blocks, blocks longer than the tensor: as defined."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    length, count = data.draw(st.integers(0, LONGEST)), data.draw(st.integers(1, 5))
    style = data.draw(st.sampled_from(["ties", "plain", "special"]))
    with np.errstate(all="ignore"):
        taus = [make_values(random, (length,), None, style).astype(np.float32) for _ in range(count)]
    blocks = data.draw(ratios(count))
    masks, claims = claim_all(taus, blocks, mode)
    options: dict[str, Any] = MODES[mode]
    expected = naive.cabs_masks(taus, [n for n, _ in blocks], [m for _, m in blocks], **options)
    np.testing.assert_array_equal(np.array(expected), np.array(masks))
    total = np.zeros(length, int) if mode == IGNORE else np.sum(expected, axis=0)
    np.testing.assert_array_equal(total, claims)


def test_equal_magnitudes_keep_the_lower_index() -> None:
    """Signs do not matter, and of equals the first are kept."""
    tau = np.array([1, -2, 2, -2, 1, -2, 0, 2], np.float32)
    masks, _ = claim_all([tau, tau], [(3, 8), (3, 8)], FORBID)
    assert [1, 2, 3] == np.flatnonzero(masks[0]).tolist()
    assert [0, 5, 7] == np.flatnonzero(masks[1]).tolist()


def test_zeros_never_claim() -> None:
    """Zeros of either sign are not kept even where the block has room."""
    tau = np.array([0.0, -0.0, 1e-45, 0.0], np.float32)
    for mode in (FORBID, MINIMIZE, IGNORE):
        masks, _ = claim_all([tau, tau], [(4, 4), (4, 4)], mode)
        assert [2] == np.flatnonzero(masks[0]).tolist()


def test_nan_exceeds_infinity_exceeds_numbers() -> None:
    """Magnitudes are compared as bits."""
    tau = np.array([3e38, np.inf, np.nan, -np.inf, -1], np.float32)
    for n, kept in enumerate([[], [2], [1, 2], [1, 2, 3], [0, 1, 2, 3]]):
        masks, _ = claim_all([tau], [(n, 5)], FORBID)
        assert kept == np.flatnonzero(masks[0]).tolist()


def test_the_short_last_block_keeps_up_to_n() -> None:
    """Of its r elements it keeps min(n, r)."""
    tau = np.arange(1, 12, dtype=np.float32)
    masks, _ = claim_all([tau], [(4, 8)], FORBID)
    assert [4, 5, 6, 7, 8, 9, 10] == np.flatnonzero(masks[0]).tolist()


def test_minimize_takes_the_least_claimed_first() -> None:
    """What free elements cannot fill comes from claimed ones, fewest claims first."""
    strong = np.array([9, 8, 7, 0], np.float32)
    last = np.array([9, 8, 1, 2], np.float32)
    masks, claims = claim_all([strong, strong, last], [(2, 4), (1, 4), (3, 4)], MINIMIZE)
    assert [0, 1] == np.flatnonzero(masks[0]).tolist()
    assert [2] == np.flatnonzero(masks[1]).tolist()
    assert [0, 1, 3] == np.flatnonzero(masks[2]).tolist()
    assert [2, 2, 1, 1] == claims.tolist()


@pytest.mark.parametrize("order", ["rising", "falling", "pipe", "saw", "equal"])
def test_no_order_takes_quadratic_time(order: str) -> None:
    """Sorted, symmetric, periodic and equal magnitudes are selected as exactly and about as fast as any."""
    length = MAX_BLOCK if JITTED else 3000
    index = np.arange(length)
    magnitudes = {
        "rising": index,
        "falling": length - index,
        "pipe": np.minimum(index, length - index),
        "saw": index % 37,
        "equal": np.zeros(length),
    }[order]
    tau = (magnitudes + 1).astype(np.float32)
    claim_all([tau[:10]], [(3, 10)], FORBID)  # compiles, if need be
    with within(5):  # quadratic time would be many minutes
        masks, _ = claim_all([tau], [(length // 3, length)], FORBID)
    expected = np.lexsort((index, -tau))[: length // 3]
    np.testing.assert_array_equal(np.sort(expected), np.flatnonzero(masks[0]))


@pytest.mark.skipif(not JITTED, reason="a hundred thousand elements take too long as plain Python")
def test_the_longest_block() -> None:
    """Positions fill all 16 bits that ranks have for them."""
    random = np.random.default_rng(1)
    tau = random.integers(-50, 51, MAX_BLOCK + 1000).astype(np.float32)
    masks, _ = claim_all([tau, tau], [(20_000, MAX_BLOCK), (30_000, MAX_BLOCK)], MINIMIZE)
    expected = naive.cabs_masks([tau, tau], [20_000, 30_000], [MAX_BLOCK] * 2, "minimize")
    np.testing.assert_array_equal(np.array(expected), np.array(masks))


def test_task_vectors_are_float32_differences() -> None:
    """Tau is W - W0, rounded once."""
    weights = np.array([1.0000001, 5.0, -0.0], np.float32)
    base = np.array([1.0, 2.0, 0.0], np.float32)
    values = weights.copy()
    subtract(values, base)
    np.testing.assert_array_equal(weights - base, values)

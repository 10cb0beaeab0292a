"""What task vectors are like: every figure against a naive oracle, however the tensor is cut into chunks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.analysis import Analysing, check_block
from dovetail.engine.methods.measured import SHARES, Measured
from dovetail.engine.methods.program import Chunk, reduce_whole
from dovetail.engine.methods.sameness import Sameness
from tests.engine.kernels.cases import LONGEST, Array, Sources, examples, sources
from tests.engine.kernels.drive import DTYPES
from tests.naive_analysis import naive_facts


def measure(base: Array, models: Sequence[Array], block: tuple[int, int], cuts: Sequence[int] = ()) -> Measured:
    """Run all passes over a tensor that is cut at some elements."""
    codes = tuple(DTYPES.index(each.dtype) for each in (base, *models))
    program = Analysing(base.size, codes, block)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < base.size}), base.size]
    chunks = []
    for index, (start, stop) in enumerate(pairwise(edges)):
        raw = [np.ascontiguousarray(each).ravel()[start:stop].view(np.uint8) for each in (base, *models)]
        chunks.append(Chunk(index, start, stop, start, raw[0], tuple(raw[1:])))
    with np.errstate(all="ignore"):
        if len(chunks) == 1:
            return reduce_whole(program, chunks[0])
        state = None
        for step in range(program.reduce_passes):
            accumulator = program.begin(step, state)
            for chunk in chunks:
                accumulator = program.fold(step, accumulator, program.reduce(step, chunk, state))
            state = program.finish(step, accumulator, state)
    assert state is not None
    return state


def check(found: Measured, base: Array, models: Sequence[Array], n: int, m: int) -> None:
    """Compare every figure with the oracle's: counts exactly, sums to rounding."""
    facts, below = naive_facts(base, models, SHARES, n, m), np.tril_indices(len(models), -1)
    assert facts.nonfinite == found.nonfinite.tolist()
    assert facts.zeros == found.zeros.tolist()
    assert facts.below == found.counts[:, 0].tolist()
    assert facts.kept.tolist() == found.counts[:, 1:].tolist()
    for place, expected in enumerate((facts.both, facts.opposite, facts.differing, facts.common)):
        assert expected[below].tolist() == found.pairs[..., place][below].tolist()
    norms = np.sqrt(np.diag(facts.products))
    scale = np.outer(norms, norms)
    last = len(models)
    np.testing.assert_allclose(np.diag(found.products[..., 0]), [*np.diag(facts.products), facts.base_square], 1e-12)
    np.testing.assert_array_less(
        np.abs(found.products[:last, :last, 0] - facts.products)[below], 1e-12 * scale[below] + 1e-300
    )
    np.testing.assert_allclose(found.products[:last, :last, 1][below], facts.opposed[below], 1e-12, 1e-300)
    np.testing.assert_array_less(
        np.abs(found.products[last, :last, 0] - facts.base_product), 1e-12 * np.sqrt(facts.base_square) * norms + 1e-300
    )
    np.testing.assert_allclose(found.strongest, facts.strongest, 1e-12)
    np.testing.assert_allclose(found.squares, facts.kept_square, 1e-12)
    assert () == found.open


@settings(derandomize=True, deadline=None, max_examples=examples(120))
@given(given_sources=sources(), data=st.data())
def test_figures_are_those_of_the_oracle(given_sources: Sources, data: st.DataObject) -> None:
    """Counts are equal and sums to rounding, for all dtypes, NaN and infinity, and any cut where a block begins."""
    m = data.draw(st.integers(1, 40) | st.sampled_from([64, 256]))
    n = data.draw(st.integers(0, m))
    cuts = [m * each for each in data.draw(st.lists(st.integers(0, LONGEST), max_size=3))]
    base, models = given_sources.base, given_sources.models
    found = measure(base, models, (n, m), cuts)
    check(found, base, models, n, m)
    whole = measure(base, models, (n, m))
    for name in ("nonfinite", "counts", "pairs", "zeros"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(found, name))


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 3 * LONGEST), spread=st.sampled_from([1e-7, 1e-3, 1.0]))
def test_cuts_within_a_bin_are_settled(seed: int, length: int, spread: float) -> None:
    """Changes that agree in their upper bits are told apart by their lower ones, so that the energy is exact."""
    random = np.random.default_rng(seed)
    base = np.zeros(length, np.float32)
    model = (1 + spread * random.random(length)).astype(np.float32) * random.choice([-1, 1], length).astype(np.float32)
    cut = int(random.integers(0, length + 1))
    check(measure(base, [model], (1, 4), [cut // 4 * 4]), base, [model], 1, 4)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_long_tensors_have_several_tiles(dtype: type) -> None:
    """Tiles and blocks that end with the tensor, and blocks longer than a tile, count as all others."""
    random = np.random.default_rng(3)
    length = 40_000 if LONGEST > 100 else 300
    base = (0.02 * random.standard_normal(length)).astype(dtype)
    models = [(base.astype(np.float64) + 1e-3 * random.standard_t(3, length)).astype(dtype) for _ in range(2)]
    for n, m in ((64, 256), (1, 3), (9000, 20_000)):
        check(measure(base, models, (n, m), [20_000 // m * m]), base, models, n, m)


def test_twelve_models() -> None:
    """Any number of models is compared pair by pair."""
    random = np.random.default_rng(5)
    base = random.standard_normal(LONGEST).astype(np.float16)
    models = [(base + random.choice([0, 0.25, -0.5], LONGEST)).astype(np.float16) for _ in range(12)]
    check(measure(base, models, (2, 8)), base, models, 2, 8)


def test_the_strongest_are_counted_up() -> None:
    """Of 101 elements, 1% are two, 10% are eleven and 25% are twenty-six."""
    base, model = np.zeros(101, np.float32), np.arange(101, dtype=np.float32)
    found = measure(base, [model], (1, 4))
    assert [sum(each**2 for each in range(101 - count, 101)) for count in (2, 11, 26)] == found.strongest[0].tolist()


@pytest.mark.parametrize(("n", "m"), [(1, 0), (5, 4), (-1, 4), (1, 2**20)])
def test_blocks_must_make_sense(n: int, m: int) -> None:
    """n is at most m, and a block fits into a tile."""
    with pytest.raises(RecipeError, match="expected"):
        check_block(n, m)


def test_unmerged_tensors_are_compared_by_bytes() -> None:
    """A single byte that differs, in whatever chunk, tells that a model differs."""
    base = np.arange(64, dtype=np.int64)
    models = [base.copy(), base.copy()]
    models[1][50] = 7
    program = Sameness(2)
    accumulator = program.begin(0, None)
    for start in (0, 32):
        raw = [each[start : start + 32].view(np.uint8) for each in (base, *models)]
        chunk = Chunk(start // 32, start, start + 32, start, raw[0], tuple(raw[1:]))
        accumulator = program.fold(0, accumulator, program.reduce(0, chunk, None))
    assert [False, True] == program.finish(0, accumulator, None).models.tolist()

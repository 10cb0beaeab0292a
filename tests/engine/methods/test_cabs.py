"""CABS as a program: every option against the oracle, bit for bit, whatever the chunks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.cabs import caution
from dovetail.engine.methods.program import ChunkStatistics
from dovetail.engine.methods.registry import METHODS
from tests import naive
from tests.engine.kernels.cases import JITTED, LONG, MOST_MODELS, Sources, examples, model_parameters, sources
from tests.engine.kernels.drive import add_up, bits, make_problem, run_program

GENERAL = patch("dovetail.engine.methods.cabs.tile_elements", lambda m: None)
"""Keeps programs from the fused kernel."""

OPTIONS = [
    {"overlap": overlap, "consensus": consensus, "conflict_aware": aware, "balanced": balanced}
    for overlap in ("forbid", "minimize")
    for consensus in ("sum", "ties")
    for aware in (True, False)
    for balanced in (True, False)
]
HALF_OF_OPTIONS = [
    each
    for each in OPTIONS
    if ((each["overlap"] == "forbid") + (each["consensus"] == "sum") + each["conflict_aware"] + each["balanced"]) % 2
    == 0
]
"""Half of the options, among which any three of the four take all values together."""

QUARTER_OF_OPTIONS = [each for each in HALF_OF_OPTIONS if each["consensus"] == "sum"]
"""Half of these, among which each of the others is with each value of the others."""


def check_case(
    case: Sources,
    parameters: list[dict[str, Any]],
    options: dict[str, Any],
    cuts: list[int] | None = None,
    widen: int = 0,
) -> ChunkStatistics:
    """Compare one merge with the oracle, bytes and statistics; give the statistics."""
    problem = make_problem("cabs", case.base, case.models, parameters, case.out_dtype, **options)
    program = METHODS["cabs"].program(problem)
    out, parts = run_program(problem, program, case.base, case.models, cuts or (), widen)
    n, m, weights = ([each[key] for each in parameters] for key in ("n", "m", "weight"))
    expected = naive.cabs(case.base, case.models, n, m, weights, case.out_dtype, **options)
    assert expected.output.shape == out.shape
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    statistics = add_up(parts)
    check_statistics(case, expected, statistics)
    return statistics


def check_statistics(case: Sources, expected: naive.Merged, statistics: ChunkStatistics) -> None:
    """Compare counts exactly, and sums up to the order of additions."""
    masks = np.array(expected.masks, np.int64)
    np.testing.assert_array_equal(masks @ masks.T, statistics.kept)
    assert expected.change is not None
    with np.errstate(all="ignore"):
        finite = [np.isfinite(each.astype(np.float32)) for each in (case.base, *case.models)]
        np.testing.assert_array_equal([np.sum(~each) for each in finite], statistics.nonfinite)
        squares = [np.sum(tau.astype(np.float64) ** 2) for tau in expected.taus]
        kept = [
            np.sum(tau[mask].astype(np.float64) ** 2) for tau, mask in zip(expected.taus, expected.masks, strict=True)
        ]
        merged = np.sum(expected.change.astype(np.float64) ** 2)
        assert np.sum(~np.isfinite(expected.output.astype(np.float32))) == statistics.overflowed
    np.testing.assert_allclose(statistics.delta_square, squares, rtol=1e-12)
    np.testing.assert_allclose(statistics.kept_square, kept, rtol=1e-12)
    # The fused kernel takes the squares of what is kept times those of the weights, without rounding in between.
    if np.isfinite(merged):
        np.testing.assert_allclose(statistics.merged_square, merged, rtol=1e-6)


@pytest.mark.parametrize(
    "options", HALF_OF_OPTIONS if LONG == 1 else OPTIONS, ids=lambda each: "-".join(str(v) for v in each.values())
)
@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(data=st.data())
def test_equals_the_oracle_whatever_the_chunks(options: dict[str, Any], data: st.DataObject) -> None:
    """Output and statistics equal the definition for any sources, n:m, chunk grid, window and stretch length.

    Where the fused kernel would serve, the general ones are tried as well.
    """
    # Without the compiler, the digits of each chunk and model take a second.
    quick = JITTED or options["balanced"]
    case = data.draw(sources(MOST_MODELS if quick else 2))
    parameters = model_parameters(data.draw, len(case.models))
    cuts = data.draw(st.lists(st.integers(0, max(1, case.base.size)), max_size=5 if quick else 1))
    stretch = data.draw(st.sampled_from([1, 7, 32, 1 << 16]))
    with (
        patch("dovetail.engine.methods.cabs.STRETCH", stretch),
        patch("dovetail.engine.methods.cabs_magnitude.STRETCH", stretch),
        nullcontext() if data.draw(st.booleans()) else GENERAL,
    ):
        check_case(case, parameters, options, cuts, widen=data.draw(st.integers(0, 3)))


@pytest.mark.parametrize("options", QUARTER_OF_OPTIONS, ids=lambda each: "-".join(str(v) for v in each.values()))
def test_long_tensors_and_blocks(options: dict[str, Any]) -> None:
    """Tensors longer than a stretch, and blocks up to the longest allowed, are no different."""
    random = np.random.default_rng(7)
    length, blocks = (70_001, (65_536, 48)) if JITTED else (2_001, (1_000, 48))
    base = random.standard_normal(length).astype(np.float16)
    models = tuple((base + random.standard_normal(length) * 0.01).astype(np.float16) for _ in blocks)
    parameters = [{"weight": 0.5, "n": m // 3, "m": m} for m in blocks]
    check_case(Sources(base, models, base.dtype), parameters, options, [length // 3])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("blocks", [[(3, 32), (3, 32)], [(64, 256)], [(5, 48), (9, 20), (1, 7)], [(40, 1000)] * 2])
def test_fused_and_general_kernels_agree(blocks: list[tuple[int, int]], dtype: str) -> None:
    """On long tensors full of exact zeros and ties both give the same bytes and the same statistics."""
    random = np.random.default_rng(11)
    length, kind = 200_003 if JITTED else 3_003, np.dtype(getattr(ml_dtypes, dtype, dtype))
    base = (random.standard_normal(length) * 0.02).astype(kind)
    changes = [random.standard_t(3, length) * 4e-5 for _ in blocks]
    models = [(base.astype(np.float32) + change).astype(kind) for change in changes]
    parameters = [{"weight": 0.7, "n": n, "m": m} for n, m in blocks]
    problem = make_problem("cabs", base, models, parameters, kind)
    program = METHODS["cabs"].program(problem)
    cuts = [length // 3, length // 2]
    fused, fused_parts = run_program(problem, program, base, models, cuts)
    with GENERAL:
        general, general_parts = run_program(problem, program, base, models, cuts)
    np.testing.assert_array_equal(bits(general), bits(fused))
    one, other = add_up(general_parts), add_up(fused_parts)
    np.testing.assert_array_equal(one.kept, other.kept)
    assert one.overflowed == other.overflowed
    np.testing.assert_allclose(one.delta_square, other.delta_square, rtol=1e-12)
    np.testing.assert_allclose(one.kept_square, other.kept_square, rtol=1e-12)
    np.testing.assert_allclose(one.merged_square, other.merged_square, rtol=1e-6)


@pytest.mark.parametrize("overlap", ["forbid", "minimize"])
def test_chunks_of_one_element(overlap: str) -> None:
    """However small the chunks, windows reach as far as earlier models' blocks can matter."""
    random = np.random.default_rng(3)
    base = np.zeros(90, np.float32)
    models = tuple(random.standard_normal(90).astype(np.float32) for _ in range(5))
    parameters = [{"weight": 1.0, "n": n, "m": m} for n, m in [(2, 9), (3, 4), (5, 7), (2, 6), (1, 3)]]
    options = OPTIONS[0] | {"overlap": overlap}
    check_case(Sources(base, models, base.dtype), parameters, options, list(range(90)))


@pytest.mark.parametrize("out", ["float32", "float16"])
def test_weight_zero_gives_the_base_back(out: str) -> None:
    """With weight 0 the output has every bit of the base, -0.0 included."""
    base = np.array([-0.0, 0.0, 1.5, -2.0] * 8, out)
    model = np.array([1.0, 1.0, 1.0, 1.0] * 8, out)
    problem = make_problem("cabs", base, [model], [{"weight": 0.0, "n": 2, "m": 4}], base.dtype)
    merged, _ = run_program(problem, METHODS["cabs"].program(problem), base, [model])
    np.testing.assert_array_equal(bits(base), bits(merged))


@pytest.mark.parametrize(("count", "n", "m"), [(2, 16, 32), (3, 3, 32), (5, 51, 256), (1, 5, 5)])
def test_density_and_overlap_are_exact(count: int, n: int, m: int) -> None:
    """With all changes non-zero and n*K <= m, no two models overlap and each keeps exactly n/m."""
    random = np.random.default_rng(n)
    length = m * 8
    base = random.standard_normal(length).astype(np.float32)
    models = tuple((base + random.uniform(0.1, 1, length)).astype(np.float32) for _ in range(count))
    case = Sources(base, models, base.dtype)
    statistics = check_case(case, [{"weight": 1.0, "n": n, "m": m}] * count, OPTIONS[0])
    np.testing.assert_array_equal(np.eye(count, dtype=np.int64) * (length * n // m), statistics.kept)


@pytest.mark.parametrize(
    ("n", "m", "balanced", "text"),
    [
        (5, 4, True, "n is 5 for model 1, tensor 'layer.weight'; expected 0 <= n <= m, and m is 4"),
        (-1, 4, True, "n is -1 for model 1, tensor 'layer.weight'; expected 0 <= n <= m, and m is 4"),
        (0, 0, True, "m is 0 for model 1, tensor 'layer.weight'; expected a whole number from 1 to 65536"),
        (0, 0, False, "m is 0 for model 1, tensor 'layer.weight'; expected a whole number from 1;"),
        (1, 65537, True, "m is 65537 for model 1, tensor 'layer.weight'; expected a whole number from 1 to 65536"),
        (9, 4, False, "n is 9 for model 1, tensor 'layer.weight'; expected 0 <= n <= m, and m is 4"),
    ],
)
def test_impossible_blocks_are_refused(n: int, m: int, balanced: bool, text: str) -> None:
    """An n:m that cannot be is a recipe error that names model, tensor and key."""
    one = np.zeros(1, np.float32)
    problem = make_problem("cabs", one, [one], [{"weight": 1, "n": n, "m": m}], one.dtype, balanced=balanced)
    with pytest.raises(RecipeError) as caught:
        METHODS["cabs"].program(problem)
    assert text in str(caught.value)
    assert "in the recipe" in str(caught.value)
    assert 2 == caught.value.exit_code


def test_long_density_denominators_need_no_balance() -> None:
    """Without blocks m is only a denominator, of any size."""
    one = np.zeros(1, np.float32)
    parameters = [{"weight": 1, "n": 1, "m": 100_000}]
    METHODS["cabs"].program(make_problem("cabs", one, [one], parameters, one.dtype, balanced=False))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e39])
def test_weights_must_be_numbers(weight: float) -> None:
    """A weight that float32 cannot hold is a recipe error."""
    one = np.zeros(1, np.float32)
    problem = make_problem("cabs", one, [one], [{"weight": weight, "n": 1, "m": 4}], one.dtype)
    with pytest.raises(RecipeError, match=r"weight is .* for model 1, tensor 'layer.weight'; expected a finite"):
        METHODS["cabs"].program(problem)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: "-".join(str(v) for v in each.values()))
def test_scratch_is_bounded(options: dict[str, Any]) -> None:
    """The memory that a program announces does not grow with the chunk beyond a stretch and its blocks."""
    one = np.zeros(1, np.float32)
    parameters = [{"weight": 1, "n": 8, "m": 32}, {"weight": 1, "n": 64, "m": 256}]
    program = METHODS["cabs"].program(make_problem("cabs", one, [one, one], parameters, one.dtype, **options))
    assert program.scratch_bytes(1 << 24) == program.scratch_bytes(1 << 30)
    assert program.scratch_bytes(1 << 24) < 4 * 2**20


@pytest.mark.parametrize(
    ("blocks", "options", "expected"),
    [
        ([(64, 256)] * 4, {}, "take 75% of the places, and leave it about as little of the energy"),
        (
            [(3, 4)] * 3,
            {},
            "take 100% of the places, and leave it about as little of the energy",
        ),
        ([(64, 256)] * 3, {}, ""),
        ([(3, 32)] * 4, {}, ""),
        ([(3, 4)], {}, ""),
        ([(64, 256)] * 4, {"overlap": "minimize"}, ""),
        ([(64, 256)] * 4, {"conflict_aware": False}, ""),
    ],
)
def test_a_last_model_that_is_starved(blocks: list[tuple[int, int]], options: dict[str, Any], expected: str) -> None:
    """Where models before the last take more than half of the places, and keep others out, that is said."""
    values = np.ones(8, np.float32)
    each = [{"n": n, "m": m, "weight": 1.0} for n, m in blocks]
    problem = make_problem("cabs", values, [values] * len(blocks), each, np.dtype(np.float32), **options)
    assert (expected in caution(problem), bool(expected)) == (True, bool(caution(problem)))


def test_random_changes_leave_the_last_model_what_the_warning_says() -> None:
    """Of four models with changes that have nothing to do with each other, the last keeps a quarter of its energy."""
    random = np.random.default_rng(0)
    base = np.zeros(2560 if JITTED else 512, np.float32)
    models = [random.standard_normal(base.size).astype(np.float32) for _ in range(4)]
    found = naive.cabs(base, models, [64] * 4, [256] * 4, [0, 0, 0, 1], np.dtype(np.float32)).output
    assert 0.25 == pytest.approx(float((found**2).sum() / (models[-1] ** 2).sum()), abs=0.06)

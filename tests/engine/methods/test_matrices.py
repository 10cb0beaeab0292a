"""Methods that decompose matrices: the definition, its properties, and the cases at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.methods import gram, matrices
from dovetail.engine.methods.iso_c import Isotropic
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.methods.task_arithmetic import TaskArithmetic
from dovetail.engine.methods.tsv_m import TaskSingularVectors
from tests.engine.kernels.cases import JITTED, MOST_MODELS, examples
from tests.engine.kernels.drive import DTYPES, add_up, bits, run_program
from tests.engine.methods.probing import describe, run
from tests.engine.methods.test_against_oracle import compare
from tests.oracles import explain
from tests.oracles.spectral import is_well_posed

Array = NDArray[Any]
BOTH = pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
SHAPES = ((30, 7), (7, 30), (12, 12), (13, 12), (40, 1), (1, 40), (1, 1), (2, 3))
NEAR = 1e-5
"""Share of the greatest change by which results in float32 may differ."""


def family(seed: int, shape: tuple[int, ...], count: int, rank: int | None = None) -> tuple[Array, list[Array]]:
    """Make a base of zeros, so that changes are exact, and fine-tunes of full rank, or of a lower one."""
    random = np.random.default_rng(seed)
    if rank is None:
        return np.zeros(shape, np.float32), [random.standard_normal(shape).astype(np.float32) for _ in range(count)]
    factors = [
        (random.integers(-4, 5, (shape[0], rank)), random.integers(-4, 5, (rank, shape[1]))) for _ in range(count)
    ]
    return np.zeros(shape, np.float32), [(left @ right).astype(np.float32) for left, right in factors]


def merged(method: str, base: Array, models: Sequence[Array], cuts: Sequence[int] = (), **parameters: Any) -> Array:
    """Merge one tensor by equal weights."""
    problem = describe(method, base, models, parameters, [{}] * len(models))
    return np.asarray(run(problem, method, base, models, cuts))


def close(expected: Array, found: Array) -> None:
    """Compare, relative to the greatest magnitude."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR * float(np.abs(expected).max(initial=1e-30)))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let matrices have many blocks and panels."""
    monkeypatch.setattr(matrices, "BLOCK", 30)
    monkeypatch.setattr(gram, "PANEL", 50)


@BOTH
@pytest.mark.usefixtures("small_blocks")
@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(data=st.data())
def test_equals_the_decomposition_of_whole_matrices(method: str, data: st.DataObject) -> None:
    """Tall or wide, of whatever dtypes and weights, cut anywhere: what numpy's decomposition of the whole gives."""
    shape = data.draw(st.sampled_from(SHAPES) | st.tuples(st.integers(1, 40), st.integers(1, 20)))
    count = data.draw(st.integers(1, MOST_MODELS))
    _, models = family(data.draw(st.integers(0, 2**32 - 1)), shape, count + 1)
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES[:4]), min_size=count + 1, max_size=count + 1))
    base, *models = [(each * 0.1).astype(dtype) for each, dtype in zip(models, dtypes, strict=True)]
    each = [{"weight": data.draw(st.sampled_from([1.0, 0.6, -0.4]))} for _ in models]
    taus = [model.astype(np.float32) - base.astype(np.float32) for model in models]
    assume(is_well_posed([one["weight"] * tau.astype(np.float64) for one, tau in zip(each, taus, strict=True)]))
    parameters = {"lambda": data.draw(st.sampled_from([1.0, 0.7]))}
    problem = describe(method, base, models, parameters, each)
    found = run(problem, method, base, models, data.draw(st.lists(st.integers(0, base.size), max_size=4)))
    compare(explain(method, base, models, parameters, each), found, np.dtype(np.float32))
    np.testing.assert_array_equal(bits(run(problem, method, base, models)), bits(found))


@BOTH
@pytest.mark.skipif(not JITTED, reason="takes long as plain Python, and tests the linear algebra library")
@pytest.mark.parametrize("shape", [(1501, 403), (403, 1501)])
def test_chunks_do_not_matter_beyond_a_block(method: str, shape: tuple[int, int]) -> None:
    """Whatever the library makes of the number of rows, a matrix of several blocks has the same bits however cut."""
    base, models = family(1, shape, 2)
    assert shape[0] * shape[1] > 2 * matrices.BLOCK
    whole = bits(merged(method, base, models))
    for cuts in ([100_000, 200_001, 403_000], [matrices.BLOCK], [1, 2, 600_000]):
        np.testing.assert_array_equal(whole, bits(merged(method, base, models, cuts)))


@BOTH
@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES), count=st.integers(1, 3))
def test_transposed_models_give_the_transposed_result(
    method: str, seed: int, shape: tuple[int, int], count: int
) -> None:
    """Tall and wide matrices are computed in two ways, which agree."""
    base, models = family(seed, shape, count)
    assume(is_well_posed([each.astype(np.float64) for each in models]))
    turned = [np.ascontiguousarray(each.T) for each in models]
    close(merged(method, base, models).T, merged(method, np.ascontiguousarray(base.T), turned))


@BOTH
@settings(derandomize=True, deadline=None, max_examples=examples(30))
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(24, 9), (9, 24)]))
def test_neither_order_nor_turning_matters(method: str, seed: int, shape: tuple[int, int]) -> None:
    """Models in another order merge alike; rotating the rows of all models rotates the rows of the result."""
    base, models = family(seed, shape, 3)
    assume(is_well_posed([each.astype(np.float64) for each in models]))
    expected = merged(method, base, models)
    close(expected, merged(method, base, models[::-1]))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((shape[0], shape[0])))[0]
    turned = [(turn @ each.astype(np.float64)).astype(np.float32) for each in models]
    np.testing.assert_allclose(
        merged(method, base, turned),
        turn @ expected.astype(np.float64),
        rtol=0,
        atol=1e-3 * float(np.abs(expected).max()),
    )


@settings(derandomize=True, deadline=None, max_examples=examples(40))
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES), count=st.integers(1, MOST_MODELS))
def test_the_spectrum_of_iso_c_is_flat(seed: int, shape: tuple[int, int], count: int) -> None:
    """All singular values of the change are the mean of those of the sum, so that the sum of all stays what it was."""
    base, models = family(seed, shape, count)
    total = np.sum([each.astype(np.float64) for each in models], axis=0)
    assume(is_well_posed([total]))
    values = np.linalg.svd(merged("iso_c", base, models).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(values, np.linalg.svd(total, compute_uv=False).mean(), rtol=NEAR)


def test_a_single_model_keeps_its_change() -> None:
    """Of one model, tsv_m keeps all directions, which are orthogonal already."""
    for shape in SHAPES:
        base, models = family(5, shape, 1)
        close(models[0], merged("tsv_m", base, models))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_equal_models_count_once(shape: tuple[int, int]) -> None:
    """Directions that two models share are not doubled, as their sum would: the result is what each keeps alone."""
    base, (model,) = family(6, shape, 1)
    left, values, right = np.linalg.svd(model.astype(np.float64), full_matrices=False)
    close((left[:, :4] * values[:4]) @ right[:4], merged("tsv_m", base, [model, model]))


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_orthogonal_models_are_added_up(shape: tuple[int, int]) -> None:
    """Models that share neither rows nor columns do not interfere: their kept directions are summed as they are."""
    one, other = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    one[: shape[0] // 2, : shape[1] // 2] = family(7, (shape[0] // 2, shape[1] // 2), 1)[1][0]
    other[shape[0] // 2 :, shape[1] // 2 :] = family(8, (shape[0] // 2, shape[1] // 2), 1)[1][0]
    close(one + other, merged("tsv_m", np.zeros(shape, np.float32), [one, other]))


@BOTH
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_low_ranks(method: str, shape: tuple[int, int]) -> None:
    """Directions in which nothing changes get no change, whatever a library makes of them: the oracle's rule."""
    base, models = family(9, shape, 2, rank=2)
    assert is_well_posed([each.astype(np.float64) for each in models])
    found = merged(method, base, models)
    compare(explain(method, base, models, {}, [{}] * 2), found, np.dtype(np.float32))
    assert 4 == np.linalg.matrix_rank(found.astype(np.float64), tol=1e-4 * np.abs(found).max())


@BOTH
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_models_without_a_change(method: str, shape: tuple[int, int]) -> None:
    """Where no model changes anything, the base model's bits stay; a model that changes nothing adds nothing."""
    base = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    base[0, 0] = -0.0
    np.testing.assert_array_equal(bits(base), bits(merged(method, base, [base, base])))
    _, (model,) = family(10, shape, 1)
    zero = np.zeros(shape, np.float32)
    compare(explain(method, zero, [model, zero], {}, [{}] * 2), merged(method, zero, [model, zero]), np.dtype("f4"))
    without = describe(method, zero, [model, model * 2], {}, [{"weight": 1.0}, {"weight": 0.0}])
    close(merged(method, zero, [model, zero]), run(without, method, zero, [model, model * 2]))


@BOTH
@pytest.mark.parametrize(
    ("shape", "decompose", "decomposed"),
    [
        ((6, 4), "matrices", True),
        ((6,), "matrices", False),
        ((), "all", False),
        ((6, 2, 2), "matrices", False),
        ((6, 2, 2), "all", True),
        ((6, 4), "none", False),
        ((0, 4), "matrices", False),
    ],
)
def test_which_tensors_are_decomposed(method: str, shape: tuple[int, ...], decompose: str, decomposed: bool) -> None:
    """Matrices, or all of two dimensions and more; of the others, task vectors are averaged."""
    base, models = family(2, shape, 3)
    program = METHODS[method].program(describe(method, base, models, {"decompose": decompose}, [{}] * 3))
    assert isinstance(program, (Isotropic, TaskSingularVectors) if decomposed else TaskArithmetic)
    if not decomposed:
        found = merged(method, base, models, **{"lambda": 0.5, "decompose": decompose})
        np.testing.assert_allclose(found, 0.5 * np.mean(models, axis=0), rtol=1e-6, atol=1e-6)


def test_matrices_narrower_than_the_models_are_averaged() -> None:
    """Two models have no direction each in a matrix of one column: tsv_m averages it, and iso_c sums it as it is."""
    base, models = family(3, (9, 1), 2)
    close(np.mean(models, axis=0), merged("tsv_m", base, models))
    close(np.sum(models, axis=0), merged("iso_c", base, models))


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_in_and_out(method: str, dtype: np.dtype[Any]) -> None:
    """Inputs count as the numbers that they store, and the result is rounded to the output's dtype once."""
    base, models = family(4, (11, 5), 2)
    stored = [each.astype(dtype) for each in models]
    expected = merged(method, base, [each.astype(np.float32) for each in stored])
    np.testing.assert_array_equal(bits(expected), bits(merged(method, base, stored)))
    problem = describe(method, base, stored, {}, [{}] * 2, dtype)
    np.testing.assert_array_equal(bits(expected.astype(dtype)), bits(run(problem, method, base, stored)))


@BOTH
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_counted_and_spreads(
    method: str, shape: tuple[int, int], bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One element spoils its whole matrix, as it does every decomposition; it is counted once, in its model."""
    monkeypatch.setattr(matrices, "BLOCK", 30)
    base, models = family(11, shape, 2)
    models[1][3, 4] = bad
    problem = describe(method, base, models, {}, [{}] * 2)
    out, statistics = run_program(problem, METHODS[method].program(problem), base, models, [50, 101, 120])
    assert np.isnan(out).all()
    np.testing.assert_array_equal([0, 0, 1], add_up(statistics).nonfinite)


@BOTH
def test_weights_scale_the_changes(method: str) -> None:
    """Whatever its sign, a weight is a factor of the model's change; lambda is one of the whole."""
    base, models = family(12, (20, 8), 2)
    problem = describe(method, base, models, {"lambda": 0.5}, [{"weight": 2.0}, {"weight": -0.5}])
    expected = 0.5 * merged(method, base, [2 * models[0], -models[1] / 2]).astype(np.float64)
    close(expected, run(problem, method, base, models))


@BOTH
@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_statistics_are_those_of_whole_task_vectors(
    method: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a model changes counts as kept, so that densities mean the same for matrices as for vectors."""
    monkeypatch.setattr(matrices, "BLOCK", 30)
    base, models = family(13, shape, 2)
    models[1][::2] = 0.0
    problem = describe(method, base, models, {}, [{}] * 2)
    out, statistics = run_program(problem, METHODS[method].program(problem), base, models, [50, 101, 120])
    found = add_up(statistics)
    np.testing.assert_array_equal([[240, 120], [120, 120]], found.kept)
    squares = [float((each.astype(np.float64) ** 2).sum()) for each in models]
    np.testing.assert_allclose(squares, found.delta_square, rtol=1e-6)
    np.testing.assert_array_equal(found.delta_square, found.kept_square)
    np.testing.assert_allclose(float((out.astype(np.float64) ** 2).sum()), found.merged_square, rtol=1e-6)

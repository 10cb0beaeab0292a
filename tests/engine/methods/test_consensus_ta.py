"""Consensus task arithmetic: what its parameters mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from tests.engine.kernels.cases import MOST_MODELS, examples, make_values
from tests.engine.kernels.drive import DTYPES, add_up, run_program
from tests.engine.methods.probing import describe, run

BASE = np.zeros(4, np.float32)
TAUS = (np.float32([4, 4, 4, -1]), np.float32([4, -3, 0, -1]), np.float32([4, 0.5, 0, 8]))
"""The sums are 12, 1.5, 4 and 6. With a scale of 0.4, all three models, the first two, the first, and the last stand
out of the rest of the sum."""


@pytest.mark.parametrize(("k", "expected"), [(0, [12, 1.5, 4, 6]), (1, [12, 1.5, 4, 6]), (2, [12, 1.5, 0, 0])])
def test_k_models_must_agree(k: int, expected: list[float]) -> None:
    """Selfish changes, of one model alone, go with k = 2; k = 0 keeps all."""
    problem = describe("consensus_ta", BASE, TAUS, {"k": k}, [{}] * 3)
    np.testing.assert_array_equal(expected, run(problem, "consensus_ta", BASE, TAUS))


def test_catastrophic_changes_go_with_k_1() -> None:
    """A sum in which no model recognises its own change is dropped: the changes are 1, and the sum is 8."""
    taus = [np.float32([1.0])] * 8
    for k, expected in ((0, 8.0), (1, 0.0)):
        problem = describe("consensus_ta", BASE[:1], taus, {"k": k}, [{}] * 8)
        np.testing.assert_array_equal([expected], run(problem, "consensus_ta", BASE[:1], taus))


def test_the_comparison_is_strict_and_each_model_has_its_scale() -> None:
    """Of the changes 1 and 2, the first is half of the rest of the sum: it counts below that, and not there."""
    taus = (np.float32([1.0]), np.float32([2.0]))
    for scale, expected in ((0.5, 0.0), (0.49, 3.0)):
        each = [{"tall_mask_lambda": scale}, {"tall_mask_lambda": 1.9}]
        problem = describe("consensus_ta", BASE[:1], taus, {"k": 2}, each)
        np.testing.assert_array_equal([expected], run(problem, "consensus_ta", BASE[:1], taus))


@settings(derandomize=True, deadline=None, max_examples=examples(30))
@given(data=st.data())
def test_with_k_0_it_is_task_arithmetic(data: st.DataObject) -> None:
    """Nothing is dropped: every bit, and every statistic, is that of the plain sum."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size, count = data.draw(st.integers(1, 300)), data.draw(st.integers(1, MOST_MODELS))
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES[:4]), min_size=count + 1, max_size=count + 1))
    base = make_values(random, (size,), None, "plain").astype(dtypes[0])
    models = [make_values(random, (size,), base, "plain").astype(dtype) for dtype in dtypes[1:]]
    each = [{"weight": weight} for weight in random.uniform(-0.5, 1.5, count)]
    found = []
    for method, parameters in (("consensus_ta", {"k": 0}), ("task_arithmetic", {})):
        problem = describe(method, base, models, {"lambda": 0.7, **parameters}, each)
        out, statistics = run_program(problem, METHODS[method].program(problem), base, models)
        found.append((out.tobytes(), add_up(statistics)))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[1][1].kept, found[0][1].kept)
    np.testing.assert_allclose(found[1][1].kept_square, found[0][1].kept_square, rtol=1e-6)


@settings(derandomize=True, deadline=None, max_examples=examples(30))
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, MOST_MODELS))
def test_asking_for_more_keeps_less(seed: int, count: int) -> None:
    """What is kept with a greater k, or where changes must stand out farther, is kept with a smaller one too."""
    random = np.random.default_rng(seed)
    taus = random.standard_t(3, (count, 200)).astype(np.float32)
    base = np.zeros(200, np.float32)

    def kept(k: int, scale: float) -> set[int]:
        problem = describe("consensus_ta", base, taus, {"k": k}, [{"tall_mask_lambda": scale}] * count)
        return set(np.flatnonzero(run(problem, "consensus_ta", base, taus)))

    for k in range(count):
        assert kept(k + 1, 0.4) <= kept(k, 0.4)
    for low, high in ((0.0, 0.2), (0.2, 0.6), (0.6, 3.0)):
        assert kept(2, high) <= kept(2, low)
    assert kept(2, 3.0) < kept(2, 0.0)


def test_statistics_count_what_is_kept() -> None:
    """An element counts for the models that change it, where enough of them agree."""
    problem = describe("consensus_ta", BASE, TAUS, {"k": 2}, [{}] * 3)
    _, statistics = run_program(problem, METHODS["consensus_ta"].program(problem), BASE, TAUS)
    np.testing.assert_array_equal([[2, 2, 2], [2, 2, 2], [2, 2, 2]], add_up(statistics).kept)
    np.testing.assert_allclose([32, 25, 16.25], add_up(statistics).kept_square)


@pytest.mark.parametrize(
    ("parameters", "each", "message"),
    [
        ({"k": 3}, {}, "k is 3, and 2 models can agree on tensor 'layer.weight'; expected a whole number from 0 to 2;"),
        ({"k": -1}, {}, "k is -1, and 2 models can agree"),
        ({}, {"tall_mask_lambda": -0.1}, "tall_mask_lambda is -0.1 for model 1, tensor 'layer.weight'"),
        ({}, {"weight": float("nan")}, "weight is nan for model 1"),
        ({"lambda": float("inf")}, {}, "lambda is inf"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, float], each: dict[str, float], message: str) -> None:
    """A k that no number of models reaches would give back the base model without a word."""
    problem = describe("consensus_ta", BASE, TAUS[:2], parameters, [each, {}])
    with pytest.raises(RecipeError) as caught:
        METHODS["consensus_ta"].program(problem)
    assert str(caught.value).startswith(message)

"""The two methods that CABS is compared with: each of its halves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from tests import naive
from tests.engine.kernels.cases import examples, sources
from tests.engine.kernels.drive import bits
from tests.engine.methods.probing import describe, run
from tests.oracles import explain


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_nm_pruning_is_cabs_where_every_model_prunes_alone(data: st.DataObject) -> None:
    """n of every m, whatever the others keep."""
    case = data.draw(sources())
    each = [
        {"weight": data.draw(st.sampled_from([1.0, 0.3, -0.5])), "n": data.draw(st.integers(0, 5)), "m": 6}
        for _ in case.models
    ]
    consensus = data.draw(st.sampled_from(["sum", "ties"]))
    problem = describe("nm_pruning", case.base, case.models, {"consensus": consensus}, each, case.out_dtype)
    cuts = data.draw(st.lists(st.integers(0, max(1, case.base.size)), max_size=4))
    merged = run(problem, "nm_pruning", case.base, case.models, cuts)
    n, m, weights = ([one[key] for one in each] for key in ("n", "m", "weight"))
    options: dict[str, Any] = {"conflict_aware": False, "consensus": consensus}
    expected = naive.cabs(case.base, case.models, n, m, weights, case.out_dtype, **options)
    np.testing.assert_array_equal(bits(expected.output), bits(merged))


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_magnitude_is_task_arithmetic_on_the_strongest(data: st.DataObject) -> None:
    """What ties keeps, added up without votes: the oracle of a TIES merge of each model alone says what that is."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    length, count = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 3))
    base = random.standard_normal(length).astype(np.float32)
    models: list[NDArray[np.float32]] = [
        base + random.integers(-3, 4, length).astype(np.float32) * np.float32(0.25) for _ in range(count)
    ]
    each = [
        {
            "weight": data.draw(st.sampled_from([1.0, 0.5, -0.25])),
            "density": data.draw(st.sampled_from([0, 0.1, 0.5, 1])),
        }
        for _ in models
    ]
    merged = run(describe("magnitude", base, models, {}, each), "magnitude", base, models, [length // 2])
    change = np.zeros(length, np.float32)
    for model, one in zip(models, each, strict=True):
        (mask,) = explain("ties", base, [model], {}, [one]).masks
        change = change + np.where(mask, np.float32(one["weight"]) * (model - base), np.float32(0))
    np.testing.assert_array_equal(base + change, merged)


@pytest.mark.parametrize("method", ["magnitude", "ties", "dare_linear", "breadcrumbs"])
@pytest.mark.parametrize("density", [-0.1, float("nan")])
def test_densities_must_be_parts(method: str, density: float) -> None:
    """A density below 0 is a recipe error that names model, tensor and key."""
    one = np.zeros(1, np.float32)
    problem = describe(method, one, [one], {}, [{"weight": 1.0, "density": density}])
    with pytest.raises(
        RecipeError, match=r"density is .* for model 1, tensor 'layer.weight'; expected a number from 0"
    ):
        METHODS[method].program(problem)


def test_probabilities_must_be_possible() -> None:
    """Density and epsilon of della must give probabilities."""
    one = np.zeros(1, np.float32)
    problem = describe("della", one, [one], {}, [{"weight": 1.0, "density": 0.9, "epsilon": 0.2}])
    with pytest.raises(RecipeError, match=r"density 0.9 and epsilon 0.2 .* from 0.7 to 1.1; expected numbers between"):
        METHODS["della"].program(problem)


def test_directions_that_cancel_are_an_error() -> None:
    """The weighted mean of three directions that balance out is undefined, and says so."""
    base = np.zeros(4, np.float32)
    models = [np.array(each, np.float32) for each in ([1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0])]
    each = [{"weight": 1.0}, {"weight": 1.0}, {"weight": 0.0}]
    problem = describe("multislerp", base, models, {}, each)
    with pytest.raises(RecipeError, match=r"'layer.weight' is undefined: the models' weighted directions cancel out"):
        run(problem, "multislerp", base, models)
    # Frozen layers have no changes at all: their mean is none, too.
    problem = describe("multislerp", base, [base] * 3, {}, each)
    np.testing.assert_array_equal(base, run(problem, "multislerp", base, [base] * 3))

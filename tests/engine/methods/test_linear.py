"""Weighted averages as a program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from tests import naive
from tests.engine.kernels.cases import WEIGHTS, examples, sources
from tests.engine.kernels.drive import add_up, bits, make_problem, run_program


@settings(derandomize=True, deadline=None, max_examples=examples(200))
@given(data=st.data(), normalize=st.booleans(), with_base=st.booleans())
def test_equals_the_oracle_whatever_the_chunks(data: st.DataObject, normalize: bool, with_base: bool) -> None:
    """Any dtypes, shapes and chunks give the definition's bits; a base model beside the models has no part."""
    case = data.draw(sources())
    weights = [data.draw(WEIGHTS) for _ in case.models]
    if normalize and np.sum(np.array(weights, np.float32)) == 0:
        weights[0] += 1.0
    cuts = data.draw(st.lists(st.integers(0, max(1, case.base.size)), max_size=4))
    base = case.base if with_base else None
    parameters = [{"weight": weight} for weight in weights]
    problem = make_problem("linear", base, case.models, parameters, case.out_dtype, normalize=normalize)
    program = METHODS["linear"].program(problem)
    out, parts = run_program(problem, program, base, case.models, cuts, widen=data.draw(st.integers(0, 2)))
    expected = naive.linear(case.models, weights, case.out_dtype, normalize)
    assert expected.output.shape == out.shape
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    statistics = add_up(parts)
    with np.errstate(all="ignore"):
        counts = [np.sum(~np.isfinite(each.astype(np.float32))) for each in case.models]
    assert [0] * with_base + counts == statistics.nonfinite.tolist()
    assert 0 == statistics.kept.sum() == statistics.delta_square.sum() == statistics.merged_square


def test_one_model_is_copied() -> None:
    """A single model with a weight that is a power of two, normalized, comes out unchanged, -0.0 included."""
    model = np.array([-0.0, 0.0, 1.5, np.inf, 3e-5], np.float16)
    problem = make_problem("linear", None, [model], [{"weight": 0.5}], model.dtype)
    out, _ = run_program(problem, METHODS["linear"].program(problem), None, [model])
    np.testing.assert_array_equal(bits(model), bits(out))


def test_weights_that_cancel_are_refused() -> None:
    """Dividing by a sum of zero is undefined: a recipe error says so; without normalize it is fine."""
    one = np.ones(1, np.float32)
    parameters = [{"weight": 0.5}, {"weight": -0.5}]
    with pytest.raises(RecipeError, match=r"the weights for tensor 'layer.weight' add up to 0; expected another sum"):
        METHODS["linear"].program(make_problem("linear", None, [one, one], parameters, one.dtype))
    METHODS["linear"].program(make_problem("linear", None, [one, one], parameters, one.dtype, normalize=False))

"""Task arithmetic as a program."""

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
from tests.engine.methods.test_cabs import check_statistics


@settings(derandomize=True, deadline=None, max_examples=examples(80))
@given(data=st.data(), normalize=st.booleans(), factor=st.sampled_from([1.0, 0.0, -1.7, 0.3]))
def test_equals_the_oracle_whatever_the_chunks(data: st.DataObject, normalize: bool, factor: float) -> None:
    """Any dtypes, shapes and chunks give the definition's bits and statistics; every change counts as kept."""
    case = data.draw(sources())
    weights = [data.draw(WEIGHTS) for _ in case.models]
    cuts = data.draw(st.lists(st.integers(0, max(1, case.base.size)), max_size=4))
    parameters = [{"weight": weight} for weight in weights]
    options = {"normalize": normalize, "lambda": factor}
    problem = make_problem("task_arithmetic", case.base, case.models, parameters, case.out_dtype, **options)
    program = METHODS["task_arithmetic"].program(problem)
    out, parts = run_program(problem, program, case.base, case.models, cuts, data.draw(st.integers(0, 2)))
    expected = naive.task_arithmetic(case.base, case.models, weights, case.out_dtype, factor, normalize)
    assert expected.output.shape == out.shape
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    check_statistics(case, expected, add_up(parts))


def test_weights_that_cancel_do_not_divide() -> None:
    """As in mergekit, a sum of weights of zero leaves the sum of changes as it is."""
    base, up, down = (np.full(3, value, np.float32) for value in (1.0, 2.0, 0.0))
    parameters = [{"weight": 0.5}, {"weight": -0.5}]
    problem = make_problem("task_arithmetic", base, [up, down], parameters, base.dtype, normalize=True)
    out, _ = run_program(problem, METHODS["task_arithmetic"].program(problem), base, [up, down])
    assert [2.0, 2.0, 2.0] == out.tolist()


def test_lambda_must_be_a_number() -> None:
    """An infinite lambda is a recipe error."""
    one = np.ones(1, np.float32)
    options = {"lambda": float("inf")}
    problem = make_problem("task_arithmetic", one, [one], [{"weight": 1}], one.dtype, **options)
    with pytest.raises(RecipeError, match=r"lambda is inf for tensor 'layer.weight'; expected a finite number"):
        METHODS["task_arithmetic"].program(problem)

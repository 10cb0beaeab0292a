"""The oracles themselves, against the golden results."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.compare import CASES, PAPERS, check, method_of, oracle_results
from tests.oracles import ORACLES, RANDOM, explain
from tests.oracles.result import Case
from tests.oracles.task_vectors import della_probability, keep_breadcrumbs


@pytest.mark.parametrize("case", [*CASES, *PAPERS])
def test_oracles_equal_the_golden_files(case: str) -> None:
    """Recipe by recipe, what the formulas give is what mergekit gives or, for methods that it lacks, torch."""
    check(case, {name: result.output for name, result in oracle_results(case).items()})


def test_every_oracle_has_golden_files() -> None:
    """No oracle stands on its own word."""
    assert set(ORACLES) == {method_of(case) for case in (*CASES, *PAPERS)}


def test_random_methods_take_masks_or_numbers() -> None:
    """Given numbers select what is below the probability, as given masks do; what is kept is rescaled to the norm."""
    base, model = np.zeros(4, np.float32), np.array([1, -2, 3, -4], np.float32)
    numbers = [0.1, 0.6, 0.4, 0.9]
    each = [{"weight": 0.5, "density": 0.5}]
    by_number = explain("dare_linear", base, [model], {}, each, uniform=lambda _, index: numbers[index])
    by_mask = explain("dare_linear", base, [model], {}, each, masks=[np.array([True, False, True, False])])
    np.testing.assert_array_equal([1.25, 0, 3.75, 0], by_number.output)
    np.testing.assert_array_equal(by_number.output, by_mask.output)
    plain = explain("dare_linear", base, [model], {"rescale": False}, each, masks=by_mask.masks)
    np.testing.assert_array_equal([0.5, 0, 1.5, 0], plain.output)


def test_density_one_keeps_all() -> None:
    """With density 1 nothing is random, and nothing rescaled."""
    base, model = np.zeros(3, np.float32), np.array([1, -2, 3], np.float32)
    for method in RANDOM:
        merged = explain(method, base, [model], {"normalize": False}, [{"weight": 0.5}])
        np.testing.assert_array_equal([0.5, -1, 1.5], merged.output)


def _case(tau: list[float] | list[list[float]], **parameters: float) -> tuple[Case, np.ndarray]:
    array = np.array(tau, np.float32)
    return Case("", np.zeros_like(array), (array,), {}, (parameters,)), array


def test_della_ranks_rows() -> None:
    """Probabilities rise with the rank in a row from density - epsilon to density + epsilon; ties by index."""
    case, tau = _case([[3, -1, 2], [1, 1, 1]], density=0.5, epsilon=0.1)
    np.testing.assert_allclose([[0.6, 0.4, 0.5], [0.4, 0.5, 0.6]], della_probability(case, 0, tau))
    case, tau = _case([[3], [1]], density=0.5, epsilon=0.1)
    np.testing.assert_allclose([[0.5], [0.5]], della_probability(case, 0, tau))


def test_breadcrumbs_drop_outliers_first() -> None:
    """The largest go first, then the smallest; density decides where both cannot be."""
    values = [float(value) for value in range(10, 0, -1)]
    for density, gamma, kept in ((0.5, 0.2, [2, 3, 4, 5, 6]), (0.9, 0.3, range(1, 10)), (0.4, 0.05, range(4))):
        case, tau = _case(values, density=density, gamma=gamma)
        mask = keep_breadcrumbs(case, 0, tau)
        assert mask is not None
        assert list(kept) == np.flatnonzero(mask).tolist()

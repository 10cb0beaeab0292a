"""The objective of adaptive weight allocation, against its equations written naively, and what else can count."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.searching.evaluations import Evaluation, failed
from dovetail.engine.searching.objective import Objective, awa_cost

LOSSES = st.floats(1e-3, 1e3)
TABLES = st.integers(1, 6).flatmap(
    lambda count: st.tuples(
        st.lists(LOSSES, min_size=count, max_size=count), st.lists(LOSSES, min_size=count, max_size=count)
    )
)


def naive_cost(losses: list[float], before: list[float]) -> float:
    """Write equations of arXiv:2608.12842 one by one: D_t = (L_t(x) - L_t(1)) / L_t(1), f_t, F = sum of f_t."""
    total = 0.0
    for t in range(len(losses)):
        d_t = (losses[t] - before[t]) / before[t]
        f_t = 100 * d_t if d_t > 0 else d_t
        total = total + f_t
    return total


@given(TABLES)
def test_awa(table: tuple[list[float], list[float]]) -> None:
    """The cost is F of the equations."""
    losses, before = table
    names = [f"task {t}" for t in range(len(losses))]
    assert math.isclose(
        naive_cost(losses, before),
        awa_cost(dict(zip(names, losses, strict=True)), dict(zip(names, before, strict=True))),
        rel_tol=1e-12,
        abs_tol=1e-12,
    )


def test_awa_by_hand() -> None:
    """One task a tenth worse weighs a hundred times another that is a tenth better; the start costs nothing."""
    assert 0.0 == awa_cost({"a": 2.0, "b": 4.0}, {"a": 2.0, "b": 4.0})
    assert math.isclose(10.0 - 0.1, awa_cost({"a": 2.2, "b": 3.6}, {"a": 2.0, "b": 4.0}))


def costs(objective: Objective, *results: float | Mapping[str, float]) -> list[float | None]:
    return [cost for cost, _ in objective.judge([Evaluation(result) for result in results])]


@pytest.mark.parametrize(
    ("name", "results", "expected", "settled"),
    [
        (None, (0.5, 0.7), [-0.5, -0.7], "score"),
        (None, ({"a": 2.0}, {"a": 1.0}), [0.0, -0.5], "awa"),
        ("loss", (0.5, 0.7), [0.5, 0.7], "loss"),
        ("loss", ({"a": 1.0, "b": 2.0}, {"b": 4.0, "a": 1.0}), [1.5, 2.5], "loss"),
        ("score", ({"a": 1.0, "b": 2.0},), [-1.5], "score"),
        ("awa", (2.0, 2.2), [0.0, pytest.approx(10.0)], "awa"),
    ],
)
def test_objectives(name: str | None, results: tuple[float, ...], expected: list[float], settled: str) -> None:
    """Numbers are scores and losses by task are those of awa, unless somebody says otherwise."""
    objective = Objective(name)
    assert expected == costs(objective, *results)
    assert settled == objective.name


@pytest.mark.parametrize(
    ("name", "first", "second", "text"),
    [
        ("awa", {"a": 1.0}, {"b": 1.0}, "it gave the tasks b; expected the tasks a as of the first candidate"),
        ("loss", 1.0, {"b": 1.0}, "it gave the tasks b; expected a single number as of the first candidate"),
        ("awa", {"a": 1.0}, {"a": -1.0}, "the loss of task 'a' is -1; expected a number of at least 0 for awa"),
        (
            "loss",
            {"a": 1.0, "b": 1.0},
            {"a": 1e308, "b": 1e308},
            "its losses are too far from the others to be compared; expected smaller numbers",
        ),
        ("awa", {"a": 1.0}, 2.0, "it gave a single number; expected the tasks a as of the first candidate"),
    ],
)
def test_what_cannot_be_compared(
    name: str, first: float | Mapping[str, float], second: float | Mapping[str, float], text: str
) -> None:
    """An outcome that cannot be compared with the others counts as failed, and says why."""
    objective = Objective(name)
    costs(objective, first)
    ((cost, seen),) = objective.judge([Evaluation(second)])
    assert (None, text) == (cost, seen.failure)


def test_reference_is_the_first_that_can_be_one() -> None:
    """Where the start fails, or has a loss of 0, awa compares with the next candidate."""
    objective = Objective("awa")
    judged = objective.judge([failed("no"), Evaluation({"a": 0.0}), Evaluation({"a": 2.0}), Evaluation({"a": 1.0})])
    assert [None, None, 0.0, -0.5] == [cost for cost, _ in judged]
    assert "the loss of task 'a' is 0; expected a number above 0 for awa" == judged[1][1].failure

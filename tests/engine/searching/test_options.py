"""Where searches start, what bounds and options they may have, and what is refused before anything is merged."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.search import search
from tests.engine.conftest import Family
from tests.engine.searching.searches import Weights, in_memory, marked


def test_bounds_are_those_of_the_method(family: Family) -> None:
    """A mark whose values the method refuses is an error that names it, before anything is merged."""
    recipe = marked(family, merge_method="cabs", parameters={"n": {"search": [4, 40]}, "m": 16})
    with pytest.raises(RecipeError) as caught:
        search(recipe, lambda given: 1, family.out, in_memory())
    assert "recipe: parameters.n is searched as far as 40, which is refused: n is 40 for model" in str(caught.value)
    assert "expected 0 <= n <= m, and m is 16; correct the bounds" in str(caught.value)
    density = {"weight": 1.0, "density": {"search": [-0.5, 1.0]}}
    with pytest.raises(RecipeError, match=r"parameters\.density is searched as far as -0\.5, which is refused"):
        search(marked(family, merge_method="ties", parameters=density), lambda given: 1, family.out, in_memory())
    assert not family.staging.exists()


def test_starts_that_are_refused(family: Family) -> None:
    """A start of values that do not go together is an error that says what to do."""
    parameters = {"n": {"search": [1, 12], "start": 12}, "m": {"search": [8, 16], "start": 9}}
    with pytest.raises(RecipeError, match=r"the start is refused: n is 12 .*let a mark begin elsewhere"):
        search(marked(family, merge_method="cabs", parameters=parameters), lambda given: 1, family.out, in_memory())


def test_values_that_do_not_go_together(family: Family) -> None:
    """Candidates that the method refuses, though each value alone is right, are failures like others."""
    recipe = marked(
        family, merge_method="cabs", parameters={"n": {"search": [1, 8]}, "m": {"search": [6, 16], "start": 12}}
    )
    found = search(recipe, lambda given: 1, family.out, in_memory(budget=40, optimizer="random"))
    refused = [each for each in found.history["candidates"] if each["failure"]]
    assert all(each["values"]["n"] > each["values"]["m"] for each in refused)
    assert 0 < len(refused) == found.history["failed"]
    assert "it cannot be merged: n is" in refused[0]["failure"]


def test_starting_points(family: Family) -> None:
    """Weights start at 1, at 1/K, or in inverse proportion to the norms of the task vectors; bounds hold."""
    weights = Weights(family)
    norms = np.linalg.norm(weights.changes, axis=0)
    expected = {"ones": [1.0, 1.0], "equal": [0.5, 0.5], "nan": list((1 / norms) / (1 / norms).sum())}
    for start, values in expected.items():
        found = search(marked(family), lambda given: 1, family.home / start, in_memory(budget=1, start=start))
        assert np.allclose(values, list(found.values.values()), rtol=1e-5)
    narrow = marked(family, models=[{"model": str(family.math), "parameters": {"weight": {"search": [0.1, 0.3]}}}])
    assert {"weight[math]": 0.3} == search(narrow, lambda given: 1, family.out, in_memory(budget=1)).values


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"merge_method": "linear", "base_model": None}, "has no task vectors of whole models"),
        (
            {"parameters": {"weight": {"search": [0, 1]}}, "models": "plain"},
            "searches weight for several models at once",
        ),
        ({"models": "same"}, "which is equal to the base model"),
    ],
)
def test_starts_that_make_no_sense(family: Family, changes: dict[str, Any], text: str) -> None:
    """NAN needs the norms of task vectors, and a weight for each."""
    recipe = marked(family) | {key: value for key, value in changes.items() if key != "models"}
    if changes.get("models") == "plain":
        recipe["models"] = [{"model": str(family.math)}, {"model": str(family.code)}]
    elif "models" in changes:
        recipe["models"][0]["model"] = str(shutil.copytree(family.base, family.home / "twin"))
    with pytest.raises(RecipeError, match=f"the start is nan, and the recipe .*{text}"):
        search({k: v for k, v in recipe.items() if v}, lambda given: 1, family.out, in_memory(start="nan"))


@pytest.mark.parametrize(
    ("evaluate", "how", "text"),
    [
        ("cmd", in_memory(), "given is arrays for a command; expected folder"),
        (len, in_memory(timeout_s=1.0), "timeout_s is given for a function; expected a command"),
        (" ", SearchOptions(), "the evaluator's command is empty"),
    ],
)
def test_options_that_do_not_go_together(family: Family, evaluate: Any, how: SearchOptions, text: str) -> None:
    """What would have no effect is refused."""
    with pytest.raises(RecipeError, match=text):
        search(marked(family), evaluate, family.out, how)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"budget": 0}, "budget is 0; expected a whole number from 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of cma, grid, random, quadratic"),
        ({"objective": "f1"}, "objective is 'f1'; expected one of awa, score, loss"),
        ({"start": "zero"}, "start is 'zero'; expected one of ones, equal, nan"),
        ({"given": "model"}, "given is 'model'; expected one of folder, tensors, arrays"),
        ({"timeout_s": 0}, "timeout_s is 0; expected seconds above 0"),
        ({"evaluations": 1.5}, "evaluations is 1.5; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
    ],
)
def test_wrong_options(option: dict[str, Any], text: str) -> None:
    """An option that cannot be used is named with what could be."""
    with pytest.raises(RecipeError, match=text):
        SearchOptions(**option)

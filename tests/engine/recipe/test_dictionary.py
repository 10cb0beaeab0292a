"""Recipes as Python values: whatever a dict says, the YAML made of it says."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.dictionary import dictionary_text
from dovetail.engine.recipe.reader import read_yaml
from tests.engine.recipe.rows import TABLE

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_reads_back(values: dict[str, Any]) -> None:
    """Any mapping of plain values is what the reader of recipes makes of its text."""
    assert values == read_yaml(dictionary_text(values))


def test_other_types() -> None:
    """Paths, tuples and numbers of numpy are taken as what they stand for."""
    given = {
        "path": PurePosixPath("models/a"),
        "tuple": (1, 2),
        "int": np.int64(3),
        "float": np.float32(0.5),
        "bool": np.True_,
        "range": range(2),
    }
    expected = {"path": "models/a", "tuple": [1, 2], "int": 3, "float": 0.5, "bool": True, "range": [0, 1]}
    assert expected == yaml.safe_load(dictionary_text(given))


def test_shared_values_are_written_out() -> None:
    """A value that stands in several places is written in each: a recipe file has no aliases."""
    shared = {"weight": 1}
    assert "&" not in dictionary_text({"a": shared, "b": shared})


def endless() -> dict[str, Any]:
    """Make a mapping that holds itself."""
    values: dict[str, Any] = {}
    values["again"] = values
    return values


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"models": [{"model": {1}}]}, "recipe: models[0].model is {1}, of type set; expected text, a path, a number"),
        ({"a": b"bytes"}, "recipe: a is b'bytes', of type bytes; expected text"),
        ({"a": {1: 2}}, "recipe: a key of a is 1, of type int; expected text"),
        (endless(), "recipe: the values are nested too deeply; expected at most 40 levels"),
        ({"a": "\0"}, "recipe: a has a character that is not text; expected no NUL, no lone surrogates"),
        ({"a": "\ud800"}, "recipe: a has a character that is not text; expected no NUL, no lone surrogates"),
        ({"a": 2**63}, "recipe: a is too large a number; expected a number below 2^63"),
        (
            {"merge_method": "average", "models": [{"model": "m"}], "parameters": {"wieght": 1}},
            "recipe: parameters.wieght is not a parameter of average",
        ),
    ],
)
def test_errors_name_the_place(recipe: dict[str, Any], expected: str) -> None:
    """They name the key path, and no line of a text that nobody has seen."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, TABLE)
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("name", ["recipe.yml", "{a}/recipe.yml", "recipe\nof two lines.yml"])
def test_paths_are_told_from_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there is read, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("merge_method: average\nmodels: [{model: m}]\nparameters: {weight: 1}\n")
    assert path == load_recipe(name, TABLE).origin.path


@pytest.mark.parametrize("name", ["gone.yml", "gone.yaml", "gone", "{a}/gone.yml"])
def test_paths_that_lead_nowhere(name: str) -> None:
    """A single line is a path, and the error says that nothing is there."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, TABLE)
    expected = f"recipe '{name}' cannot be read: No such file or directory; expected a readable YAML file; correct its"
    assert str(caught.value).startswith(expected)

"""Hostile recipes: whatever they hold, the answer is a recipe or a RecipeError, soon."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Recipe, expand, load_recipe
from dovetail.engine.recipe.unused import MOST_SHOWN, notes
from dovetail.io.errors import TensorMismatchError
from tests.engine.kernels.cases import examples
from tests.engine.recipe.rows import TABLE, llama

GOOD = {
    "merge_method": "sparse",
    "base_model": "base",
    "models": [{"model": "a", "parameters": {"n": [1, 2], "weight": 1}}, {"model": "b"}],
    "parameters": {
        "weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 2}],
        "m": 8,
        "overlap": "forbid",
        "pruning_order": ["b", "a"],
    },
    "dtype": "bfloat16",
    "tokenizer": {"source": "union", "tokens": {"x": {"source": {"kind": "zero"}}}},
}
SLICED = {
    "merge_method": "average",
    "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [1, 3]}]},
        {"sources": [{"model": "b", "layer_range": [2, 3], "parameters": {"weight": 2}}], "parameters": {}},
    ],
    "parameters": {"weight": [0, 1]},
}
WORDS = st.sampled_from(
    [
        "model",
        "models",
        "slices",
        "sources",
        "weight",
        "n",
        "value",
        "filter",
        "parameters",
        "base",
        "a",
        "b",
        "sparse",
        "average",
        "merge_method",
        "base_model",
        "layer_range",
        "modules",
        "tokenizer",
        "union",
        "*",
        "a@1",
        "a+b",
        "",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | WORDS
    | st.integers(min_value=-(10**400), max_value=10**400)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=4)
)
QUICK = settings(max_examples=examples(60), derandomize=True)


def use(recipe: Recipe) -> None:
    """Do all that can be done with a recipe."""
    assert recipe.canonical_json() == load_recipe(recipe.canonical_json(), TABLE).canonical_json()
    with suppress(RecipeError, TensorMismatchError):
        expand(recipe, TABLE[recipe.merge_method], {ref: llama(3) for ref in recipe.references()})


def try_text(text: str) -> None:
    """Read a text as a recipe; only a RecipeError may come of it."""
    with suppress(RecipeError):
        use(load_recipe(text + "\n", TABLE))


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested lists and mappings."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, item in inner for place in places(item, (*where, key)))]


def replaced(value: Any, where: tuple[Any, ...], new: Any) -> Any:
    """Copy nested lists and mappings with one place replaced."""
    if not where:
        return new
    copy = value.copy()
    copy[where[0]] = replaced(value[where[0]], where[1:], new)
    return copy


@QUICK
@given(st.text())
def test_any_text(text: str) -> None:
    """Any text whatever."""
    try_text(text)


@QUICK
@given(st.text(alphabet="{}[]&*!|>'\"%@`-?:,<> \n\tabe01.~\\#x"))
def test_any_punctuation(text: str) -> None:
    """Any heap of YAML's punctuation."""
    try_text(text)


@QUICK
@given(st.binary())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any file whatever."""
    path = tmp_path_factory.mktemp("fuzz") / "r.yml"
    path.write_bytes(data)
    with suppress(RecipeError):
        load_recipe(path, TABLE)


@QUICK
@given(VALUES)
def test_any_structure(value: Any) -> None:
    """Any structure of keys that recipes use."""
    try_text(yaml.safe_dump(value))


@settings(QUICK, max_examples=examples(120))
@given(st.sampled_from([GOOD, SLICED]), st.data())
def test_any_value_in_a_good_recipe(good: dict[str, Any], data: st.DataObject) -> None:
    """A good recipe with any value at any place."""
    where = data.draw(st.sampled_from(places(good)))
    try_text(yaml.safe_dump(replaced(good, where, data.draw(VALUES))))


@QUICK
@given(st.sampled_from([GOOD, SLICED]), st.data())
def test_damaged_text_of_a_good_recipe(good: dict[str, Any], data: st.DataObject) -> None:
    """A good recipe cut anywhere, with any text put in."""
    text = yaml.safe_dump(good)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    try_text(text[:start] + data.draw(st.text(max_size=6)) + text[stop:])


@pytest.mark.parametrize("good", [GOOD, SLICED])
def test_good_recipes_are_good(good: dict[str, Any]) -> None:
    """The fuzzed recipes are valid to begin with."""
    recipe = load_recipe(yaml.safe_dump(good), TABLE)
    assert expand(recipe, TABLE[recipe.merge_method], {ref: llama(3) for ref in recipe.references()}).tensors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: !!python/object/apply:os.system ['touch pwned']", "expected no tags"),
        ("!!python/module:antigravity", "expected no tags"),
        ("merge_method: !!python/name:os.system", "expected no tags"),
        ("models: &m [{model: *m}]", "expand too far"),
        ("merge_method: a\nmerge_method: b", "merge_method is given twice"),
        ("parameters: {weight: 1" + "0" * 5000 + "}", "not a valid int"),
        ("parameters: {weight: 0x" + "f" * 9000 + "}", "too large a number"),
        ("merge_method: \x00", "not valid YAML"),
        ('merge_method: "\\0"', "not text"),
        ("merge_method: \ud800", "not valid YAML"),
        ("merge_method: [" * 2000, "nested too deeply"),
        ("- " * 50_000, "nested too deeply"),
        ("? " * 50_000, "nested too deeply"),
        ("a: " + "!" * 50_000, "expected no tags"),
        ("merge_method: average\nmodels: [{model: " + "x" * 100_000 + "@@}]", "..."),
        ("x" * 1000 + ": 1", "merge_method is missing"),
        ("merge_method: " + "y" * 100_000 + "\nmodels: [{model: a}]", "expected one of sparse"),
        ("merge_method: average\nmodels: [{model: a, parameters: {" + "w" * 1000 + ": 1}}]", "weight is missing"),
    ],
    ids=range(18),
)
def test_hostile_texts(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known attacks are refused for what they are, in a message of bearable length, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(text + "\n", TABLE)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert [] == list(tmp_path.iterdir())


def test_many_keys() -> None:
    """Thousands of unknown keys, models and filters cost no more than reading them."""
    keys = "\n".join(f"key{i}: {i}" for i in range(4_000))
    recipe = load_recipe(f"merge_method: average\nmodels: [{{model: a}}]\nparameters: {{weight: 1}}\n{keys}", TABLE)
    said = notes(recipe.unused, recipe.origin)
    assert (4_000, "line 4: key0 is unknown; ignored, as mergekit ignores it") == (len(recipe.unused), said[0])
    assert (MOST_SHOWN + 1, "3,950 more keys have no effect") == (len(said), said[-1])
    models = [{"model": f"m{i}"} for i in range(2_000)]
    many = {"merge_method": "average", "models": models, "parameters": {"weight": 1}}
    assert 2_000 == len(load_recipe(json.dumps(many), TABLE).models)

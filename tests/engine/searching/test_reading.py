"""Marks of a recipe: what they say, what is refused, and how values take their places."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.load import read_origin
from dovetail.engine.searching.reading import Template, literal, read_template

MODELS = "models: [{model: org/math, parameters: {weight: 1}}, {model: org/code, parameters: {weight: 1}}]\n"
CABS = "merge_method: cabs\nbase_model: org/base\n" + MODELS


def template(text: str) -> Template:
    return read_template(read_origin(text))


def template_of(recipe: dict[str, Any]) -> Template:
    return read_template(read_origin(recipe))


def cabs(parameters: str) -> Template:
    return template(f"{CABS}parameters: {parameters}\n")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("{n: 1, m: {search: [8, 64]}}", ("m", "int", 8, 64, False, ())),
        ("{n: {search: [1, 64], scale: log}, m: 64}", ("n", "int", 1, 64, True, ())),
        ("{n_val: {search: ['1', 8.0]}, m: 64}", ("n_val", "int", 1, 8, False, ())),
        ("{n: {search: {choices: [16, 32]}}, m: 64}", ("n", "choice", 0, 0, False, (16, 32))),
        ("{n: 1, m: 4, balanced: {search: [true, false]}}", ("balanced", "choice", 0, 0, False, (True, False))),
        (
            "{n: 1, m: 4, overlap: {search: [forbid, minimize]}}",
            ("overlap", "choice", 0, 0, False, ("forbid", "minimize")),
        ),
        (
            "{n: 1, m: 4, pruning_order: {search: order}}",
            ("pruning_order", "order", 0, 0, False, ("org/math", "org/code")),
        ),
    ],
)
def test_marks(parameters: str, expected: tuple[Any, ...]) -> None:
    """A mark is read by the kind of its parameter."""
    (found,) = cabs(parameters).space.dimensions
    assert expected == (found.label, found.kind, found.low, found.high, found.log, found.options)


def test_every_numeric_parameter_of_every_method() -> None:
    """Each parameter that is a number can be searched, wherever a recipe may give it."""
    from dovetail.engine.methods.registry import all_methods

    tried = 0
    for method in all_methods().values():
        for row in method.parameters:
            if row.kind in ("float", "int") and not row.inert:
                recipe = {"merge_method": method.name, "models": [], "parameters": {row.name: {"search": [1, 2]}}}
                (found,) = read_template(read_origin(recipe)).space.dimensions
                assert (row.name, row.kind, 1, 2) == (found.parameter, found.kind, found.low, found.high)
                tried += 1
    assert tried > 40


LAYERS = """\
merge_method: task_arithmetic
base_model: org/base
models:
  - model: org/math
    parameters:
      weight:
        - filter: self_attn   # attention
          value: {search: [0, 1]}
        - filter: mlp
          value:
            search: [0.1, 2]
            scale: log
        # and the rest
        - value: [0.25, {search: [0.5, 1.5], start: 1.25}, 1]
  - model: org/code
    parameters: {weight: &w {search: [-1, 1]}}
parameters: {lambda: *w}
"""


def test_groups_of_layers() -> None:
    """Values of filters and points of gradients are searched one by one; an alias is the same value twice."""
    found = template(LAYERS)
    assert ("weight[math] self_attn", "weight[math] mlp", "weight[math] 1", "weight") == found.space.labels
    assert (None, None, 1.25, None) == tuple(each.start for each in found.space.dimensions)
    assert 2 == len(found.space.dimensions[-1].places)


def test_values_take_the_places_of_marks() -> None:
    """What replaces a mark is its value alone: comments, anchors and everything else stay as they were."""
    text = template(LAYERS).text((0.5, 1e-05, 1.0, -0.25))
    expected = (
        LAYERS.replace("{search: [0, 1]}", "0.5")
        .replace("\n            search: [0.1, 2]\n            scale: log\n        # and the rest", " 1.0e-05")
        .replace("{search: [0.5, 1.5], start: 1.25}", "1.0")
        .replace("{search: [-1, 1]}", "-0.25")
    )
    assert expected == text
    recipe = load_recipe(text)
    assert "-0.25" == str(recipe.parameters["lambda"].branches[0].value)
    assert (0.25, 1.0, 1) == recipe.models[0].parameters["weight"].branches[2].value


def test_values_of_recipes_given_as_dicts() -> None:
    """A dict is searched like a text, and its values stand beside their keys."""
    marked = yaml.safe_load(LAYERS.replace("*w", "1"))
    assert "weight: 0.75\n" in template_of(marked).text((0.1, 0.2, 0.3, 0.75))


def test_merged_in_marks() -> None:
    """A mark that ``<<`` merges into several models is one value for all of them."""
    text = (
        "x-all: &all {weight: {search: [0, 1]}}\nmerge_method: linear\n"
        "models: [{model: a, parameters: {<<: *all}}, {model: b, parameters: {<<: *all, weight: {search: [0, 2]}}}, "
        "{model: c, parameters: {<<: *all}}]\n"
    )
    found = template(text)
    assert ("weight", "weight[b]") == found.space.labels
    assert [0.5, 0.25, 0.5] == [
        each.parameters["weight"].branches[0].value for each in load_recipe(found.text((0.5, 0.25))).models
    ]


@pytest.mark.parametrize("value", ["on", ("org/a b", "it's", "a, b", "ü\x85"), True, 3, 0.1, 1e300, 5e-324])
def test_literals_are_read_back(value: Any) -> None:
    """A value means the same in a recipe, also within brackets."""
    expected = list(value) if isinstance(value, tuple) else value
    assert {"a": expected} == yaml.safe_load(f"{{a: {literal(value)}}}")
    assert {"a": expected} == yaml.safe_load(f"a: {literal(value)}")


HOSTILE = {
    "{n: {search: [1]}, m: 4}": "parameters.n.search is [1]; expected [LOW, HIGH], or {choices: [VALUE, ...]}",
    "{n: {search: [1, 2, 3]}, m: 4}": "parameters.n.search is [1, 2, 3]; expected [LOW, HIGH]",
    "{n: {search: 3}, m: 4}": "parameters.n.search is 3; expected [LOW, HIGH]",
    "{n: {search: null}, m: 4}": "parameters.n.search is empty; expected [LOW, HIGH]",
    "{n: {search: [4, 1]}, m: 4}": "expected a low bound, and a greater high one",
    "{n: {search: [2, 2]}, m: 4}": "expected a low bound, and a greater high one",
    "{n: {search: [1.5, 4]}, m: 4}": "parameters.n.search[0] is 1.5; expected a whole number",
    "{n: {search: [1, .inf]}, m: 4}": "parameters.n.search[1] is inf; expected a whole number",
    "{n: {search: [1, true]}, m: 4}": "parameters.n.search[1] is true; expected a whole number",
    "{n: {search: [0, 4], scale: log}, m: 4}": "begins at 0 on a logarithmic scale; expected a low bound above 0",
    "{n: {search: [1, 4], scale: lgo}, m: 4}": "parameters.n.scale is 'lgo'; expected one of linear, log",
    "{n: {search: [1, 4], sclae: log}, m: 4}": "parameters.n.sclae is not a key of a mark; expected one of search",
    "{n: {search: [1, 4], start: 5}, m: 4}": "parameters.n.start is 5; expected a number from 1 to 4",
    "{n: {search: {choices: [1, 2]}, start: 5}, m: 4}": "parameters.n.start is 5; expected one of the choices",
    "{n: {search: {choices: [1, 1]}}, m: 4}": "expected each value once",
    "{n: {search: {choices: [1]}}, m: 4}": "parameters.n.search.choices is [1]; expected a list of two or more values",
    "{n: {search: {chioces: [1, 2]}}, m: 4}": "has the keys ['chioces']; expected choices alone",
    "{n: 1, m: 4, overlap: {search: [forbid, maximize]}}": "parameters.overlap.search[1] is 'maximize'",
    "{n: 1, m: 4, overlap: {search: [forbid, minimize], scale: log}}": "is given for what is no range",
    "{n: 1, m: 4, pruning_order: {search: [a, b]}}": "expected the word order; write pruning_order: {search: order}",
    "{n: 1, m: 4, pruning_order: {search: order, start: [a, b]}}": "expected the names org/math, org/code in",
    "{n: 1, m: 4, density: {search: [0, 1]}}": "parameters.density is searched, but has no effect on cabs; expected",
    "{n: 1, m: 4}": "nothing is marked to be searched; expected a mark such as 'weight: {search: [0.1, 2.0]}'",
}


@pytest.mark.parametrize(("parameters", "text"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_hostile_marks(parameters: str, text: str) -> None:
    """Whatever a mark cannot say is an error of one line that names its place."""
    with pytest.raises(RecipeError) as caught:
        cabs(parameters)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("merge_method: cbas\nmodels: [{model: a, parameters: {weight: {search: [0, 1]}}}]", "cbas"),
        (
            "models: [{model: a, parameters: {weight: {search: [0, 1]}}}]\n",
            "merge_method is empty; expected the name of a method",
        ),
        (
            "merge_method: ties\nmodels: [{model: a, parameters: {lambda: {search: [0, 1]}}}]",
            "is searched for one model; expected one value",
        ),
        ("merge_method: cabs\nmodels: [{model: a}]\nparameters: {pruning_order: {search: order}}", "orders 1 models"),
    ],
)
def test_hostile_recipes(text: str, expected: str) -> None:
    """So is a recipe in which a mark makes no sense."""
    with pytest.raises(RecipeError) as caught:
        template(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (MODELS.replace("weight: 1", "weight: {search: [0, 1]}", 1), "line 2: models[0].parameters.weight"),
        (f"{MODELS}parameters:\n  weight: [0, {{search: [0, 1]}}]", "line 4: parameters.weight[1]"),
        (
            f"{MODELS}parameters: {{weight: [{{filter: a, value: {{search: [0, 1]}}}}, 1]}}",
            "line 3: parameters.weight[0].value",
        ),
    ],
)
def test_merging_refuses_marks(text: str, place: str) -> None:
    """A recipe with marks is none for a merge: the error names the first mark and the command that finds values."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(f"merge_method: linear\n{text}\n")
    assert (
        f"recipe, {place} is marked to be searched; expected a value; "
        "find it by 'dovetail search RECIPE OUT --evaluate COMMAND', or write one"
    ) == str(caught.value)

"""Keys without effect: which they are, what is said of them, and which unknown keys stay errors."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.recipe.unused import notes

IGNORED = "ignored, as mergekit ignores it"
PLAIN = """\
merge_method: sce
base_model: a
models:
  - model: b
  - model: c
parameters:
  select_topk: 0.5
"""
"""The smallest recipe of a method with one parameter of its own."""


def said_of(recipe: str) -> tuple[str, ...]:
    """Give what is said of any recipe's keys."""
    read = load_recipe(recipe)
    return notes(read.unused, read.origin)


def said(text: str) -> list[str]:
    """Give what is said of a recipe's keys, and check that it is read as if they were not there."""
    assert load_recipe(PLAIN).canonical_json() == load_recipe(text).canonical_json()
    return list(said_of(text))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  normalize: true", f"line 8: parameters.normalize has no effect on sce; {IGNORED}"),
        ("  lambda: [0, 1]", f"line 8: parameters.lambda has no effect on sce; {IGNORED}"),
        ("  n_val: 3", f"line 8: parameters.n_val has no effect on sce; {IGNORED}"),
        ("  dare_pruning_rate: 1", f"line 8: parameters.dare_pruning_rate is a parameter of no method; {IGNORED}"),
        ("  int_space: {a: [b]}", f"line 8: parameters.int_space is a parameter of no method; {IGNORED}"),
        ("  random_seed: 1", "line 8: parameters.random_seed has no effect there; pass --seed N"),
        (
            "  filter: mlp",
            "line 8: parameters.filter has no effect there; write NAME: [{filter: PART, value: VALUE}, ...]",
        ),
        ("  dtype: x", "line 8: parameters.dtype has no effect there; 'dtype' belongs to the top of the recipe"),
        ("output_dir: x", f"line 8: output_dir is unknown; {IGNORED}"),
        ("model_name: x", f"line 8: model_name is unknown; {IGNORED}"),
        ("allow_negative_weights: true", f"line 8: allow_negative_weights is unknown; {IGNORED}"),
        (
            "int8_mask: true",
            "line 8: int8_mask stands at the top and has no effect there; put it under 'parameters'",
        ),
        ("pad_to_multiple_of: 8", "line 8: pad_to_multiple_of has no effect there; put it under 'tokenizer'"),
        ("dype: float16", "line 8: dype is unknown and has no effect; did you mean 'dtype'?"),
        ("Dtype: float16", "line 8: Dtype is unknown and has no effect; did you mean 'dtype'?"),
        ("chat-template: auto", "line 8: chat-template is unknown and has no effect; did you mean 'chat_template'?"),
    ],
)
def test_keys_at_the_top_and_parameters(line: str, expected: str) -> None:
    """What belongs to another method, another place or to nothing is said with its line, and not read."""
    assert [expected] == said(f"{PLAIN}{line}\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("revision: main", "models[0].revision has no effect there; write model: NAME@REVISION"),
        ("lora: x", "models[0].lora has no effect there; write model: NAME+ADAPTER"),
        ("layer_range: [0, 1]", "models[0].layer_range has no effect there; layers are chosen under 'slices'"),
        ("select_topk: 1", "models[0].select_topk has no effect there; put it under 'parameters'"),
        ("weight: 1", f"models[0].weight has no effect there; {IGNORED}"),
        ("parameters: {weight: 1}", f"models[0].parameters.weight has no effect on sce; {IGNORED}"),
        (
            "parameters: {select_topk: 1}",
            "models[0].parameters.select_topk has no effect on one model; put it under the recipe's 'parameters'",
        ),
    ],
)
def test_keys_of_a_model(line: str, expected: str) -> None:
    """A model's own keys likewise."""
    text = PLAIN.replace("  - model: b\n", f"  - model: b\n    {line}\n")
    assert [f"line 5: {expected}"] == said(text)


def test_keys_deeper_down() -> None:
    """Slices, modules, filtered values, names in parts and tokens are looked through too, in the order of the text."""
    text = """\
merge_method: linear
modules:
  default:
    names: x
    slices:
      - merge_method: slerp
        residual_weight: 0.5
        sources:
          - model: {model: {path: a, branch: x}, subfolder: y}
            layer_range: [0, 1]
            density: 1
            parameters:
              weight: [{filter: mlp, value: 1, comment: z}, {value: 0.5}]
tokenizer:
  source: base
  kind: bpe
  tokens:
    <a>: {source: {kind: zero, size: 1}, id: 3}
"""
    expected = [
        f"line 4: modules.default.names is unknown; {IGNORED}",
        "line 6: modules.default.slices[0].merge_method has no effect there; 'merge_method' belongs to the top of the "
        "recipe",
        f"line 7: modules.default.slices[0].residual_weight has no effect; {IGNORED}",
        f"line 9: modules.default.slices[0].sources[0].model.model.branch is unknown; {IGNORED}",
        f"line 9: modules.default.slices[0].sources[0].model.subfolder is unknown; {IGNORED}",
        f"line 11: modules.default.slices[0].sources[0].density has no effect there; {IGNORED}",
        f"line 13: modules.default.slices[0].sources[0].parameters.weight[0].comment is unknown; {IGNORED}",
        f"line 16: tokenizer.kind is unknown; {IGNORED}",
        f"line 18: tokenizer.tokens.<a>.source.size is unknown; {IGNORED}",
        f"line 18: tokenizer.tokens.<a>.id is unknown; {IGNORED}",
    ]
    assert expected == list(said_of(text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base_model: a", "base_modle: a", "line 2: base_modle is an unknown key; expected one of name"),
        ("base_model: a", "base: a", "base is an unknown key"),
        ("base_model: a", "Base-Model: a", "did you mean 'base_model'?"),
        ("parameters:", "params:", "params is an unknown key"),
        ("parameters:", "parameters:\n  select_topkk: 1", "line 7: parameters.select_topkk is not a parameter of sce"),
        ("parameters:", "parameters:\n  select-topk: 1", "did you mean 'select_topk'?"),
        ("parameters:", "parameters:\n  topk: 1", "parameters.topk is not a parameter of sce"),
        ("  - model: b", "  - model: b\n    paramters: {}", "models[0].paramters is an unknown key"),
        ("  - model: b", "  - model: b\n    parameters: {select_top: 1}", "expected no parameters here"),
        ("parameters:", "tokenizer_src: union\nparameters:", "did you mean 'tokenizer_source'?"),
    ],
)
def test_slips_in_names_that_change_values_are_errors(old: str, new: str, message: str) -> None:
    """What looks like a misspelt or shortened name of a key that decides values is refused, with the right name."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(PLAIN.replace(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_under_every_method(name: str) -> None:
    """Under each method, each parameter of any method is either its own or said to have no effect; none is an error."""
    method = METHODS[name]
    every = {row.name: row for other in METHODS.values() for row in other.parameters}
    own = {key: row for row in method.parameters for key in (row.name, *row.synonyms)}
    some: dict[str, Any] = {"float": 0.5, "int": 1, "bool": True}
    values = {
        key: row.choices[0] if row.choices else some[row.kind] for key, row in (every | own).items() if row.kind in some
    }
    count = 1 if method.base == "pair" or method.max_models == 1 else max(2, method.min_models)
    recipe: dict[str, Any] = {
        "merge_method": name,
        "models": [{"model": f"m{i}"} for i in range(count)],
        "parameters": values,
    }
    if method.base in ("origin", "pair"):
        recipe["base_model"] = "base"
    found = {each.where[-1] for each in load_recipe(recipe).unused}
    inert = {key for key, row in own.items() if row.inert}
    assert (values.keys() - own.keys()) | inert == found


@pytest.mark.parametrize("name", ["cabs", "nm_pruning", "magnitude"])
def test_methods_that_mergekit_lacks(name: str) -> None:
    """Of these nothing is said of mergekit."""
    text = f"merge_method: {name}\nbase_model: a\nmodels: [{{model: b}}]\n"
    text += "parameters: {weight: 1, n: 1, m: 4, density: 1, t: 1}\n"
    assert {"line 4: parameters.t has no effect on " + name + "; ignored"} <= set(said_of(text))


def test_known_keys_without_effect_are_said_and_kept() -> None:
    """What was accepted in silence is said now, and the recipe is the same as before."""
    text = "merge_method: task_arithmetic\nbase_model: a\nmodels: [{model: b}]\nparameters: {weight: 1, density: 0.5}\n"
    recipe = load_recipe(text)
    assert (f"line 4: parameters.density has no effect on task_arithmetic; {IGNORED}",) == notes(
        recipe.unused, recipe.origin
    )
    assert {"weight": 1, "density": 0.5} == recipe.to_json()["parameters"]


def test_anchors_are_silent() -> None:
    """Keys that only hold anchors may have names that begin with x-, a point or an underscore."""
    text = "x-weights: &w {normalize: true}\n.common: &c\n  select_topk: 0.5\n_models: 1\n" + PLAIN.replace(
        "  select_topk: 0.5", "  <<: *c"
    )
    assert [] == said(text)


def test_anchors_by_any_name() -> None:
    """So may keys at the top with an anchor at their value, which may even be repeated; what is used twice may not."""
    text = "const: &b b\nconst: &share 0.5\n" + PLAIN.replace("model: b", "model: *b").replace("0.5", "*share")
    assert [] == said(text)
    for lines in ("const: b\n", "const: *b\n", "dtype: &d float16\ndtype: &e float32\n", "one: 1\none: &one 1\n"):
        with pytest.raises(RecipeError, match=r"\w+ is given twice; expected each key once"):
            load_recipe(text + lines)
    with pytest.raises(RecipeError, match=r"parameters\.a is given twice"):
        load_recipe(PLAIN + "  a: &a 1\n  a: &b 1\n")
    assert [f"line 10: other is unknown; {IGNORED}"] == said(f"{text}other: *b\n")
    with pytest.raises(RecipeError, match="base_modle is an unknown key"):
        load_recipe(f"base_modle: &b b\n{PLAIN}")


def test_a_misplaced_parameter_that_is_required() -> None:
    """The error about the missing parameter says where it stands in vain."""
    text = "merge_method: linear\nmodels:\n  - model: a\n    weight: 1\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(text)
    expected = "; but line 4: models[0].weight has no effect there; put it under 'parameters'"
    assert str(caught.value).endswith(expected)


def test_recipes_without_lines() -> None:
    """A recipe that was given as a dict has no lines to name."""
    recipe = load_recipe(yaml.safe_load(PLAIN) | {"output_dir": "x"})
    assert (f"output_dir is unknown; {IGNORED}",) == notes(recipe.unused, recipe.origin)


def test_strict_recipes() -> None:
    """Strictly read, all keys of all documents are in one error, each with its line and hint."""
    first = PLAIN.replace("sce\n", "sce\nname: one\nmodel_name: x\n")
    second = PLAIN.replace("model: b", "model: one") + "  density: 1\ndype: float16\n"
    with pytest.raises(RecipeError) as caught:
        load_stages(f"{first}---\n{second}", strict=True)
    expected = (
        "recipe: line 3: model_name is unknown, line 18: parameters.density has no effect on sce, line 19: dype is "
        "unknown and has no effect (did you mean 'dtype'?); expected only keys that have an effect; correct or remove "
        "them, or leave --strict out"
    )
    assert (expected, 2) == (str(caught.value), caught.value.exit_code)
    assert 2 == len(load_stages(f"{PLAIN.replace('sce', 'sce' + chr(10) + 'name: one', 1)}---\n{PLAIN}", strict=True))


def test_keys_that_could_control_a_terminal() -> None:
    """Characters that are no text are escaped, and long names shortened, as they are shown."""
    assert [f"line 8: \\x1b[2J is unknown; {IGNORED}"] == said(PLAIN + '"\\e[2J": 1\n')
    assert [f"line 8: {'q' * 60}... is unknown; {IGNORED}"] == said(PLAIN + "q" * 1000 + ": 1\n")

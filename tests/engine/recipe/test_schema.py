"""The shape of recipes: which keys there are, and what each error says."""

from __future__ import annotations

import json

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import ModelRef
from tests.engine.recipe.rows import read

WHOLE = """\
name: both
merge_method: average
base_model: a
models:
  - model: a
  - model: b
    parameters:
parameters:
  weight: 1
dtype: torch.bfloat16
out_dtype: float16
chat_template: auto
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|a|>: {source: a, force: true}
    <|b|>: {source: {kind: zero}}
    <|c|>: {source: {kind: model_token, model: b, token_id: 3}}
    no: {}
"""


def test_every_key() -> None:
    """Every key that mergekit knows is read."""
    recipe = read(WHOLE)
    assert ("bfloat16", "float16") == (recipe.dtype, recipe.out_dtype)
    assert (ModelRef(path="a"), ModelRef(path="b")) == recipe.references()
    assert recipe.tokenizer
    assert recipe.tokenizer.tokens
    assert ["<|a|>", "<|b|>", "<|c|>", "no"] == list(recipe.tokenizer.tokens)
    assert "union" == read(WHOLE[: WHOLE.index("tokenizer")] + "tokenizer_source: union").tokenizer_source
    named = read(WHOLE[: WHOLE.index("tokenizer")] + "tokenizer_source: a@1").tokenizer_source
    assert ModelRef(path="a", revision="1") == named


def test_text_is_kept() -> None:
    """The recipe keeps its text as it was written."""
    assert WHOLE == read(WHOLE).text


def test_canonical_json() -> None:
    """Recipes that say the same have the same canonical JSON, however they are written, and others do not."""
    first = "merge_method: average\nparameters: {weight: [1, {value: 2, filter: x}]}".replace("[1, ", "[")
    texts = [
        first + "\nmodels: [{model: a@1}, {model: b}]",
        "models:\n- model: {model: {path: a, revision: '1'}}\n- model: b\n  parameters:\n" + first + "  # comment",
        "# x\n" + first + "\nslices:\nmodels: [{model: {path: a, revision: '1'}}, {model: {model: b}, parameters: {}}]",
    ]
    canonical = {read(text).canonical_json() for text in texts}
    assert 1 == len(canonical)
    assert {"merge_method", "models", "parameters"} == set(json.loads(canonical.pop()))
    changed = texts[0].replace("value: 2", "value: 3")
    assert read(texts[0]).canonical_json() != read(changed).canonical_json()


def test_canonical_json_is_a_recipe() -> None:
    """Canonical JSON reads back as the same recipe."""
    once = read(WHOLE).canonical_json()
    assert once == read(once).canonical_json()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base_model: a", "base-model: a", "line 3: base-model is an unknown key; expected one of name, merge_method"),
        ("base_model: a", "base-model: a", "did you mean 'base_model'?"),
        (
            "  - model: b",
            "  - modle: b",
            "line 6: models[1].modle is an unknown key; expected one of model, parameters; did you mean 'model'?",
        ),
        ("  - model: b", "  - {}\n  - model: b", "models[1].model is missing"),
        (
            "  - model: b\n    parameters:\n",
            "  - b\n",
            "models[1] is 'b'; expected a mapping with keys among model, parameters",
        ),
        (
            "weight: 1",
            "wieght: 1",
            "line 9: parameters.wieght is not a parameter of average; expected one of weight, normalize; did you",
        ),
        (
            "method: average",
            "method: averge",
            "merge_method is 'averge' (did you mean 'average'?); expected one of sparse, average, blend, stack, turn",
        ),
        ("method: average", "method: 3", "merge_method is 3; expected text"),
        ("merge_method: average", "", "merge_method is missing"),
        ("torch.bfloat16", "bfloat", "dtype is 'bfloat'; expected one of float32"),
        ("torch.bfloat16", "16", "dtype is 16; expected text"),
        ("model: a\n  -", "model: 7\n  -", "models[0].model is 7; expected the name of a model"),
        (
            "base_model: a",
            "base_model: {model: a, lorra: b}",
            "base_model.lorra is not a key of a model reference; expected one of model, lora, override",
        ),
        ("base_model: a", "base_model: a@b@c", "write a path that holds '@' or '+' as {model: {path: PATH}}"),
        ("parameters:\n  weight: 1", "parameters: 1", "parameters is 1; expected a mapping"),
        ("source: union", "source: 3", "tokenizer.source is 3"),
        ("kind: zero", "kind: nil", "tokens.<|b|>.source.kind is 'nil'"),
        (
            "token_id: 3",
            "tokn: 3",
            "tokens.<|c|>.source.tokn is an unknown key; expected one of kind, model, token, token_id",
        ),
        (", token_id: 3", "", "tokens.<|c|>.source does not name one token"),
        ("force: true", "force: 2", "force is 2; expected true or false"),
        (
            "pad_to_multiple_of: 64",
            "pad_to_multiple_of: 0",
            "tokenizer.pad_to_multiple_of is 0; expected greater than or equal to 1",
        ),
        ("chat_template: auto", "tokenizer_source: base", "has both 'tokenizer' and 'tokenizer_source'"),
        (
            "chat_template: auto",
            "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]",
            "the recipe has models and slices; expected exactly one of models, slices, modules",
        ),
        (
            "base_model: a\nmodels:\n  - model: a\n  - model: b\n    parameters:\n",
            "models: []\n",
            "the recipe has no models to merge",
        ),
        (
            "base_model: a\nmodels:\n  - model: a\n  - model: b\n    parameters:\n",
            "models: a\n",
            "models is 'a'; expected a list",
        ),
        (
            "base_model: a\nmodels:\n  - model: a\n  - model: b\n    parameters:\n",
            "modules: {a: {models: [{model: b}]}, b: {}}\n",
            "modules",
        ),
    ],
)
def test_errors_name_line_and_key(old: str, new: str, message: str) -> None:
    """Every mistake is told with its line, its key path, what is expected and the nearest name."""
    assert old in WHOLE
    with pytest.raises(RecipeError) as caught:
        read(WHOLE.replace(old, new, 1))
    assert message in str(caught.value)
    assert str(caught.value).startswith("recipe")
    assert 2 == caught.value.exit_code


SLICES = """\
merge_method: stack
slices:
  - sources:
      - model: a
        layer_range: [0, 4]
"""


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("[4, 0]", "layer_range is [4, 0]; expected 0 <= first <= last"),
        ("[-1, 2]", "layer_range is [-1, 2]"),
        ("[0]", "slices[0].sources[0].layer_range[1] is missing"),
        ("[0, 1, 2]", "layer_range is [0, 1, 2]; expected fewer items"),
        ("[0, 1.5]", "layer_range[1] is 1.5; expected a whole number"),
        ("4", "layer_range is 4; expected a list"),
        ("[0, true]", "layer_range[1] is true"),
        ("[0, 4]\n      - {model: b, layer_range: [0, 3]}", "sources[1].layer_range has 3 layers; expected 4"),
        ("[0, 4]\n  - sources: []", "slices[1].sources is []; expected more items"),
        ("[0, 4]\n  - {}", "slices[1].sources is missing"),
        ("[0, 4]\n    source: 3", "slices[0].source is an unknown key; expected one of sources"),
    ],
)
def test_slices(new: str, message: str) -> None:
    """Slices are checked likewise."""
    with pytest.raises(RecipeError) as caught:
        read(SLICES.replace("[0, 4]", new))
    assert message in str(caught.value)


@pytest.mark.parametrize("layers", ['["0", "4"]', "[0.0, 4.0]", "[' 0 ', 4]"])
def test_layers_in_quotes(layers: str) -> None:
    """Numbers of layers may be texts, or have a fraction of zero, as mergekit takes them."""
    assert read(SLICES).canonical_json() == read(SLICES.replace("[0, 4]", layers)).canonical_json()


def test_values_in_quotes() -> None:
    """So may other numbers and switches, and a name may be a number."""
    text = WHOLE.replace("force: true", "force: 'yes'").replace("of: 64", "of: '64'").replace("id: 3", "id: 3.0")
    assert read(WHOLE).canonical_json() == read(text).canonical_json()
    assert "2024" == read(WHOLE.replace("name: both", "name: 2024")).name


def test_older_form_of_a_tokenizer_source() -> None:
    """`model:NAME` is NAME, as it once was in mergekit."""
    text = WHOLE[: WHOLE.index("tokenizer")]
    for name in ("model:org/a@1", "'model: org/a@1'", "org/a@1"):
        assert ModelRef(path="org/a", revision="1") == read(f"{text}tokenizer_source: {name}").tokenizer_source


def test_many_sources_are_checked_quickly() -> None:
    """More than a thousand sources in one slice are compared without comparing each pair."""
    sources = "\n".join(f"      - {{model: m{i}, layer_range: [0, 4]}}" for i in range(1_500))
    with pytest.raises(RecipeError, match="has 1501 models"):
        read(SLICES + sources)


def test_modules() -> None:
    """Each module has models or slices, and the references are those of all modules."""
    module = "merge_method: average\nmodules:\n  default:\n    models: [{model: a}, {model: b}]\n"
    assert (ModelRef(path="a"), ModelRef(path="b")) == read(module + "parameters: {weight: 1}").references()
    two = read(module + "  vision:\n    models: [{model: c}, {model: a}]\nparameters: {weight: 1}")
    assert ["a", "b", "c"] == [str(ref) for ref in two.references()]
    with pytest.raises(RecipeError, match=r"modules\.default has both or neither"):
        read("merge_method: average\nmodules: {default: {}}")

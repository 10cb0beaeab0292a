"""Random recipes mean what mergekit's rules, written down naively, say."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Expansion, Recipe, TensorSpec, expand
from dovetail.engine.recipe.gaps import is_vocabulary
from dovetail.io.errors import TensorMismatchError
from tests.engine.kernels.cases import examples
from tests.engine.recipe.naive_recipe import Merged, resolve
from tests.engine.recipe.rows import TABLE, read
from tests.engine.recipe.strategies import ARCHITECTURES, RandomRecipe, Taker, recipes

TAKERS = (
    Taker(
        "sparse",
        "origin",
        (1, 3),
        {"weight": "float", "n": "int", "m": "int"},
        {"balanced": "bool", "lambda": "float"},
        frozenset({"weight"}),
    ),
    Taker("average", "member", (1, 4), {"weight": "float"}, {"normalize": "bool"}, frozenset({"weight"})),
    Taker("blend", "pair", (1, 1), {}, {"t": "float"}, frozenset({"t"})),
    Taker("stack", "member", (1, 1), {"scale": "float"}),
    Taker("turn", "optional", (2, 2), {"weight": "float"}, {}, frozenset({"weight"})),
)
"""The made-up methods of `rows`, one of each kind."""


def load(recipe: RandomRecipe) -> Recipe:
    """Write a recipe as YAML and read it again."""
    return read(yaml.safe_dump(recipe.document, sort_keys=False))


def expanded(recipe: RandomRecipe, *, strict: bool = False) -> Expansion:
    """Expand a recipe over its checkpoints."""
    loaded = load(recipe)
    catalogues = {ref: recipe.catalogues[str(ref)] for ref in loaded.references()}
    return expand(loaded, TABLE[recipe.taker.name], catalogues, strict=strict)


def as_merged(spec: TensorSpec, expansion: Expansion, expected: Merged) -> Merged:
    """Write an output tensor in the words of the naive rules, defaults left out."""

    def named(item: Any) -> tuple[str, str]:
        return str(expansion.checkpoints[item.checkpoint]), item.name

    return Merged(
        base=None if spec.base is None else named(spec.base),
        models=tuple(map(named, spec.inputs)),
        parameters={key: spec.parameters[key] for key in expected.parameters},
        model_parameters=tuple(
            {key: values[key] for key in own}
            for values, own in zip(spec.model_parameters, expected.model_parameters, strict=True)
        ),
    )


@settings(max_examples=examples(40), deadline=None)
@given(recipes(TAKERS))
def test_sources_and_parameters(recipe: RandomRecipe) -> None:
    """Every output tensor has the sources, the order and the values that the rules give it, and there are no others."""
    expected = resolve(recipe)
    expansion = expanded(recipe)
    assert expected.keys() == {spec.name for spec in expansion.tensors}
    assert len(expected) == len(expansion.tensors)
    for spec in expansion.tensors:
        assert not spec.copied
        assert expected[spec.name] == as_merged(spec, expansion, expected[spec.name])


@settings(max_examples=examples(15), deadline=None)
@given(recipes(TAKERS))
def test_defaults_where_no_value_is_given(recipe: RandomRecipe) -> None:
    """What no place gives has the method's default."""
    expected = resolve(recipe)
    defaults = {row.name: row.default for row in TABLE[recipe.taker.name].parameters}
    for spec in expanded(recipe).tensors:
        for key in spec.parameters.keys() - expected[spec.name].parameters.keys():
            assert defaults[key] == spec.parameters[key]
        for values, own in zip(spec.model_parameters, expected[spec.name].model_parameters, strict=True):
            for key in values.keys() - own.keys():
                assert defaults[key] == values[key]


@settings(max_examples=examples(15), deadline=None)
@given(recipes(TAKERS))
def test_layers_are_numbered_through(recipe: RandomRecipe) -> None:
    """Every stack of the output has the layers 0, 1, 2 ... without a gap, and slices say where each came from."""
    expansion = expanded(recipe)
    stacked = {stack.stack: stack for stack in expansion.stacks}
    for stack in recipe.architecture.stacks:
        found = {
            spec.layer: spec.reference
            for spec in expansion.tensors
            if spec.name.startswith(stack.prefix) and spec.layer is not None
        }
        assert list(range(len(found))) == sorted(found)
        if stack.prefix in stacked:
            for number, (checkpoint, layer) in enumerate(stacked[stack.prefix].layers):
                assert checkpoint == found[number].checkpoint
                assert found[number].name.startswith(f"{stack.prefix}{layer}.")
        else:
            assert recipe.layers["base"][stack.prefix] == len(found)


@settings(max_examples=examples(15), deadline=None)
@given(recipes(TAKERS))
def test_canonical_form_means_the_same(recipe: RandomRecipe) -> None:
    """A recipe written from its canonical JSON is the same recipe."""
    loaded = load(recipe)
    assert loaded.canonical_json() == read(yaml.safe_dump(loaded.to_json())).canonical_json()


@settings(max_examples=examples(30), deadline=None)
@given(recipes(TAKERS), st.data())
def test_tensors_that_do_not_stand_alike(recipe: RandomRecipe, data: st.DataObject) -> None:
    """Whatever models lack or have in another shape, each tensor is merged from those that have it as the reference.

    Strict merges are refused just where there is anything to tell.
    """
    # For a head that is missing the embedding may stand in: see test_tied.
    names = [name for name in recipe.catalogues["base"] if not name.endswith("lm_head.weight")]
    damage = data.draw(st.dictionaries(st.sampled_from(("base", "orca", "math")), st.sampled_from(names), max_size=2))
    shape = data.draw(st.sampled_from([None, (2, 4), (3, 3)]))
    catalogues = recipe.catalogues
    for model, name in damage.items():
        if shape is None:
            del catalogues[model][name]
        else:
            catalogues[model][name] = shape
    loaded, method = load(recipe), TABLE[recipe.taker.name]
    given_shapes = {ref: catalogues[str(ref)] for ref in loaded.references()}
    refused = ""
    try:
        expansion = expand(loaded, method, given_shapes)
    except (TensorMismatchError, RecipeError) as error:
        refused = str(error)
    if refused:  # a small model has nothing left, or gives less than half of its elements, or a stack of one is gone
        assert any(text in refused for text in ("has no tensor of the name", "of its elements", "layer", "module"))
        return
    expected = resolve(recipe)
    for spec in expansion.tensors:
        reference = catalogues[str(expansion.checkpoints[spec.reference.checkpoint])][spec.reference.name]
        merged, (_, *rows) = expected[spec.name], reference
        alike = [
            (model, name)
            for model, name in merged.models
            if (found := catalogues[model].get(name)) == reference
            or (spec.layer is None and is_vocabulary(name) and found is not None and list(found[1:]) == rows)
        ]
        found_models = [(str(expansion.checkpoints[i]), name) for i, name in spec.inputs]
        assert (found_models == alike) if not spec.copied else (len(alike) < max(1, method.min_models))
        assert len(spec.inputs) == len(spec.model_parameters)
    unlike = [text for text in expansion.warnings if "is not listed" not in text]
    try:
        expand(loaded, method, given_shapes, strict=True)
    except TensorMismatchError:
        assert unlike
    else:
        assert not unlike


def test_all_kinds_are_drawn() -> None:
    """The strategy's methods are of every kind of base model, and its architectures of one stack and of two."""
    assert {"origin", "pair", "optional", "member"} == {TABLE[taker.name].base for taker in TAKERS}
    assert all(TABLE[taker.name].base == taker.base for taker in TAKERS)
    assert {1, 2} == {len(architecture.stacks) for architecture in ARCHITECTURES}

"""Which models are merged, in which order, and what the base model is."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.groups import Group, make_parts
from tests.engine.recipe.rows import TABLE, read


def groups(text: str) -> tuple[list[Group], list[str]]:
    """Groups of a recipe for the made-up methods, and warnings."""
    recipe = read(text)
    parts, warnings = make_parts(recipe, TABLE[recipe.merge_method])
    return [group for part in parts for group in part.groups], warnings


def merged(group: Group) -> list[str]:
    """Names of a group's models in order."""
    return [str(source.ref) for source in group.models]


def test_base_model_of_task_vectors() -> None:
    """The base model is no task vector, whether or not it is listed, and its own parameters need not be there."""
    for models in ("[{model: a}, {model: b}]", "[{model: a}, {model: base}, {model: b}]"):
        made, warnings = groups(f"merge_method: sparse\nbase_model: base\nmodels: {models}\nparameters: {{weight: 1}}")
        assert ["a", "b"] == merged(made[0])
        assert made[0].base is not None
        assert "base" == str(made[0].base.ref) == str(made[0].reference.ref)
        assert [] == warnings


def test_base_model_of_blend() -> None:
    """A base and one model: the base may be listed (as mergekit demands) or not."""
    for models in ("[{model: a}, {model: base}]", "[{model: a}]"):
        made, _ = groups(f"merge_method: blend\nbase_model: base\nmodels: {models}\nparameters: {{t: 0.5}}")
        assert ["a"] == merged(made[0])


def test_base_model_that_is_listed_is_averaged() -> None:
    """For a method that has no use of a base model, it is a model like any other."""
    made, warnings = groups(
        "merge_method: average\nbase_model: b\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    )
    assert ["a", "b"] == merged(made[0])
    assert made[0].base is None
    assert "b" == str(made[0].reference.ref)
    assert [] == warnings


def test_base_model_that_is_not_listed_is_averaged_last() -> None:
    """mergekit adds it as the last model; where it would then fail for want of a weight, it is left out."""
    made, warnings = groups("merge_method: average\nbase_model: b\nmodels: [{model: a}]\nparameters: {weight: 1}")
    assert ["a", "b"] == merged(made[0])
    assert ["base_model 'b' is not listed under models: it is merged too, as the last model"] == warnings
    made, warnings = groups("merge_method: average\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1}}]")
    assert ["a"] == merged(made[0])
    assert "b" == str(made[0].reference.ref)
    assert ["base_model 'b' is not listed under models: it is not merged"] == warnings


def test_base_model_that_has_no_room() -> None:
    """It is not added to a method that takes no more models."""
    made, _ = groups("merge_method: stack\nbase_model: b\nmodels: [{model: a}]")
    assert ["a"] == merged(made[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparse\nmodels: [{model: a}]\nparameters: {weight: 1}", "line 1: merge_method sparse has no base_model"),
        (
            "blend\nbase_model: a\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\nparameters: {t: 1}",
            "slices[0].sources has 0 models besides the base model; expected 1",
        ),
        (
            "blend\nbase_model: c\nmodels: [{model: a}, {model: b}]\nparameters: {t: 1}",
            "models has 2 models besides the base model; expected 1 for merge_method blend",
        ),
        (
            "blend\nbase_model: c\nmodels: [{model: a}]",
            "parameter t of blend is missing; expected a value; add 'parameters: {t: VALUE}'",
        ),
        (
            "average\nmodels: [{model: a, parameters: {weight: 1}}, {model: b}]",
            "models[1].parameters.weight is missing for model b",
        ),
        (
            "sparse\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\nparameters: {weight: 1}",
            "has no base_model",
        ),
        (
            "sparse\nbase_model: b\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\nparameters: {weight: 1}",
            "slices[0].sources has 0 sources from the base model 'b'; expected one, so that its layers are known",
        ),
        (
            "stack\nslices: [{sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}]",
            "slices[0].sources has 2 models; expected 1",
        ),
    ],
)
def test_models_that_do_not_fit_the_method(text: str, message: str) -> None:
    """What no checkpoint could mend is refused before any is opened."""
    with pytest.raises(RecipeError) as caught:
        read(f"merge_method: {text}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("models: [{model: a}]", "models"),
        ("slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", "slices[0].sources"),
    ],
)
def test_base_model_alone(part: str, where: str) -> None:
    """Nothing need change the base model: it is taken as it is, whatever the parameters, with a warning."""
    made, warnings = groups(f"merge_method: sparse\nbase_model: a\n{part}\nparameters: {{pruning_order: [a]}}")
    assert [[]] == [merged(group) for group in made]
    assert [f"{where} names only the base model a, which is not changed"] == warnings


def test_base_model_of_a_slice() -> None:
    """A slice's own base model wins over the recipe's."""
    made, _ = groups(
        "merge_method: sparse\nbase_model: a\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]\n  base_model: b\n"
    )
    assert [["b"], ["a"]] == [merged(group) for group in made]
    assert [1, 0] == [group.models[0].start for group in made]


ORDER = """\
merge_method: sparse
base_model: base
models: [{model: ./a}, {model: base}, {model: b@1}, {model: c}]
parameters:
  weight: 1
  pruning_order: %s
"""


def test_pruning_order() -> None:
    """The models' names, as written under models, say the order of the method."""
    made, _ = groups(ORDER % "[c, ./a, b@1]")
    assert ["c", "./a", "b@1"] == merged(made[0])


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("[c, ./a]", "line 6: pruning_order leaves out b@1; expected every model once"),
        ("[c, ./a, b@1, c]", "pruning_order names 'c' twice; expected each of ./a, b@1, c once"),
        ("[c, a, b@1]", "pruning_order names 'a', which is not one of the merged models"),
        ("[c, ./a, b@1, base]", "pruning_order names 'base', which is not one of the merged models"),
        ("c", "parameters.pruning_order is not a list of names"),
    ],
)
def test_wrong_pruning_order(order: str, message: str) -> None:
    """An order that is not a permutation of the merged models is refused."""
    with pytest.raises(RecipeError) as caught:
        read(ORDER % order)
    assert message in str(caught.value)

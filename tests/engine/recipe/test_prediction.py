"""Layers for multi-token prediction: they are stored with a model, and are not in its stack."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Expansion, expand
from dovetail.engine.recipe.layers import find_stacks
from dovetail.engine.recipe.prediction import UNKNOWN, Depth
from tests.engine.recipe.rows import TABLE, Shapes, llama, names, read

GRADIENT = "merge_method: average\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0, 1]}"


def numbered(layers: int, *, marked: bool = True) -> dict[str, tuple[int, ...]]:
    """Make a model of some layers and one more for prediction, numbered on from them, as DeepSeek and GLM do."""
    shapes = llama(layers + 1)
    return shapes | ({f"model.layers.{layers}.eh_proj.weight": (8, 16)} if marked else {})


def apart(layers: int) -> dict[str, tuple[int, ...]]:
    """Make a model with a prediction layer apart from the others, as Qwen does."""
    extra = {name.replace("model.", "mtp."): shape for name, shape in llama(1).items() if ".layers." in name}
    return llama(layers) | {"mtp.fc.weight": (8, 16), "mtp.norm.weight": (8,)} | extra


def expanded(text: str, shapes: Shapes, depth: Depth = UNKNOWN) -> Expansion:
    """Expand a recipe whose models all have the same tensors and configuration."""
    recipe = read(text)
    refs = recipe.references()
    return expand(recipe, TABLE[recipe.merge_method], dict.fromkeys(refs, shapes), depths=dict.fromkeys(refs, depth))


def weights(expansion: Expansion, suffix: str = "input_layernorm.weight") -> list[object]:
    """Give the first model's weight for one tensor of each layer, in order."""
    return [spec.model_parameters[0]["weight"] for spec in expansion.tensors if spec.name.endswith(suffix)]


@pytest.mark.parametrize(
    ("shapes", "depth"),
    [
        (numbered(3), Depth(None)),
        (numbered(3), Depth(3, 1)),
        (numbered(3, marked=False), Depth(3, 1)),
        (numbered(3, marked=False) | {"model.layers.3.join.weight": (8, 16)}, Depth(3)),
        (numbered(3) | {"visual.blocks.0.w": (1,), "visual.blocks.1.w": (1,)}, Depth(3, 1)),
        (numbered(3, marked=False) | {"visual.blocks.5.w": (1,)}, Depth(3, 1)),
    ],
)
def test_gradients_end_at_the_last_layer(shapes: Shapes, depth: Depth) -> None:
    """A gradient reaches its last value at the stack's last layer, which layers for prediction then have too."""
    expansion = expanded(GRADIENT, shapes, depth)
    assert [0, 0.5, 1, 1] == weights(expansion)
    assert list(shapes) == names(expansion)
    assert 3 == find_stacks(shapes, depth).lengths["model.layers."]
    assert [0, 1, 2, None] == [spec.layer for spec in expansion.tensors if "input_layernorm" in spec.name]


@pytest.mark.parametrize("stack", ["mtp.layers.0.", "model.mtp_layers.0.", "model.mtp.layers.0.", "model.mtp_block.0."])
def test_layers_stored_apart(stack: str) -> None:
    """A stack that is for prediction by its name is no stack of the model."""
    stacks = find_stacks([*llama(2), f"{stack}mlp.weight"])
    assert {"model.layers.": 2} == stacks.lengths
    assert {f"{stack}mlp.weight": None} == stacks.beyond


@pytest.mark.parametrize(
    ("shapes", "depth", "lengths"),
    [
        # The encoder's number is not the decoder's.
        ({f"{part}.layers.{i}.w": (1,) for part in ("encoder", "decoder") for i in range(4)}, Depth(2), (4, 4)),
        # A configuration that counts no prediction layers says nothing of one of several stacks.
        (llama(4) | {"visual.blocks.0.w": (1,)}, Depth(3), (4, 1)),
        # Vision layers are no prediction layers of the language model's.
        ({f"visual.blocks.{i}.w": (1,) for i in range(6)} | llama(3), Depth(3, 1), (6, 3)),
        # A model all of whose layers look like prediction layers has no others that they could follow.
        ({f"layers.{i}.eh_proj.weight": (1,) for i in range(2)}, Depth(None), (2,)),
        # Only the last layers follow the stack.
        (llama(3) | {"model.layers.1.hnorm.weight": (8,)}, Depth(None), (3,)),
        (llama(3), Depth(5, 1), (3,)),
        # A configuration with a number that is mistaken.
        (llama(3), Depth(2), (3,)),
        (llama(4), Depth(2, 1), (4,)),
    ],
)
def test_layers_that_are_of_the_stack(shapes: Shapes, depth: Depth, lengths: tuple[int, ...]) -> None:
    """Layers are left in their stack where nothing says that they are for prediction."""
    stacks = find_stacks(shapes, depth)
    assert (lengths, {}) == (tuple(stacks.lengths.values()), stacks.beyond)


def sliced(*ranges: list[int], last: str = "a") -> str:
    """Write a recipe that stacks layers of model a, the last slice's of another."""
    models = ["a"] * (len(ranges) - 1) + [last]
    slices = ", ".join(
        f"{{sources: [{{model: {model}, layer_range: {item}}}]}}" for model, item in zip(models, ranges, strict=True)
    )
    return f"merge_method: stack\nslices: [{slices}]"


@pytest.mark.parametrize("last", ["a", "b"])
def test_slices_to_the_last_layer(last: str) -> None:
    """Prediction layers follow the last slice's last layer, numbered on from the output's, and that is said."""
    expansion = expanded(sliced([0, 2], [0, 3], last=last), numbered(3))
    (spec,) = [spec for spec in expansion.tensors if "eh_proj" in spec.name]
    source = spec.inputs[0]
    assert ("model.layers.5.eh_proj.weight", f"{last}:model.layers.3.eh_proj.weight") == (
        spec.name,
        f"{expansion.checkpoints[source.checkpoint]}:{source.name}",
    )
    (stack,) = expansion.stacks
    assert (5, 1, 5) == (len(stack.layers), stack.kept_predictors, expansion.layer_count)
    (warning,) = expansion.warnings
    assert "are kept after the last layer, as layer 5 and on" in warning


def test_slices_that_end_earlier() -> None:
    """Prediction layers are left out where the layer that they follow is not the output's last, and that is said."""
    for shapes in (numbered(3), apart(3)):
        expansion = expanded(sliced([0, 3], [1, 2]), shapes)
        assert not [name for name in names(expansion) if "eh_proj" in name or name.startswith("mtp.")]
        (stack,) = expansion.stacks
        assert (4, 0, 1) == (len(stack.layers), stack.kept_predictors, max(stack.predictors))
        (warning,) = expansion.warnings
        assert "for multi-token prediction" in warning
        assert "are left out" in warning


def test_last_model_without_prediction_layers() -> None:
    """Prediction layers follow the last slice's first model: where it has none, another's are left out, and named."""
    recipe = read(sliced([0, 2], [0, 3], last="b"))
    a, b = recipe.references()
    expansion = expand(recipe, TABLE["stack"], {a: numbered(3), b: llama(3)})
    assert not [name for name in names(expansion) if "eh_proj" in name]
    assert ((1, 0), 0) == (expansion.stacks[0].predictors, expansion.stacks[0].kept_predictors)
    (warning,) = expansion.warnings
    assert warning.startswith("the layers of a for multi-token prediction are left out")


def test_slices_of_layers_stored_apart() -> None:
    """Prediction layers that have names of their own keep these."""
    expansion = expanded(sliced([0, 2], [0, 3]), apart(3))
    assert {name for name in apart(3) if name.startswith("mtp.")} == {
        name for name in names(expansion) if name.startswith("mtp.")
    }
    assert 1 == expansion.stacks[0].kept_predictors


def test_models_whose_last_layers_have_other_numbers() -> None:
    """Each model's own prediction layer is merged, whatever its number there."""
    text = "merge_method: average\nparameters: {weight: 1}\nslices: [{sources: [{model: a, layer_range: [0, 3]}, "
    recipe = read(text + "{model: b, layer_range: [2, 5]}]}]")
    a, b = recipe.references()
    expansion = expand(recipe, TABLE["average"], {a: numbered(3), b: numbered(5)})
    (spec,) = [spec for spec in expansion.tensors if "eh_proj" in spec.name]
    assert ["model.layers.3.eh_proj.weight", "model.layers.5.eh_proj.weight"] == [item.name for item in spec.inputs]


def test_whole_models_of_other_numbers_of_layers() -> None:
    """A prediction layer is merged with the other model's, never with a layer of a stack, whatever their numbers."""
    recipe = read("merge_method: average\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}")
    a, b = recipe.references()
    for ours, theirs in ((3, 5), (5, 3)):
        expansion = expand(recipe, TABLE["average"], {a: numbered(ours), b: numbered(theirs)})
        found = {spec.name: [item.name for item in spec.inputs] for spec in expansion.tensors}
        assert list(numbered(ours)) == list(found)
        for i in range(ours + 1):
            name = "model.layers.{}.mlp.up_proj.weight"
            other = theirs if i == ours else i
            expected = [name.format(i), name.format(other)] if i == ours or i < theirs else [name.format(i)]
            assert expected == found[name.format(i)]
        assert 1 == len(expansion.warnings)


def test_prediction_layers_are_in_no_range() -> None:
    """A range that reaches them is refused, and the message says what they are."""
    with pytest.raises(RecipeError, match=r"expected at most 3, .*leave out the layers for multi-token prediction"):
        expanded(sliced([0, 4]), numbered(3))


def test_modules() -> None:
    """The text decoder has the head and the prediction layers that are stored outside all modules."""
    shapes: dict[str, tuple[int, ...]] = {
        name.replace("model.", "model.language_model."): shape for name, shape in apart(2).items()
    }
    shapes |= {"model.visual.blocks.0.w": (2, 2)}
    for word in ("text_decoder", "language_model"):
        text = (
            "merge_method: average\nparameters: {weight: 1}\nmodules:\n"
            f"  {word}: {{models: [{{model: a}}]}}\n  visual: {{models: [{{model: b}}]}}\n"
        )
        expansion = expanded(text, shapes)
        found = {
            spec.name: [str(expansion.checkpoints[item.checkpoint]) for item in spec.inputs]
            for spec in expansion.tensors
        }
        assert {name: ["b" if "visual" in name else "a"] for name in shapes} == found
        assert () == expansion.warnings

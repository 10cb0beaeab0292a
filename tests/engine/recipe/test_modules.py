"""Modules: parts of a model by components of its tensors' names."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Expansion
from tests.engine.recipe.rows import expand_text, names

T5 = {"shared.weight": (9, 2), "encoder.final_layer_norm.weight": (2,)}
T5 |= {f"encoder.block.{i}.layer.0.q.weight": (2, 2) for i in range(4)}
T5 |= {f"decoder.block.{i}.layer.1.q.weight": (2, 2) for i in range(3)}
T5 |= {"decoder.final_layer_norm.weight": (2,), "lm_head.weight": (9, 2)}

VISION = {
    "visual.patch_embed.weight": (2, 2),
    "visual.blocks.0.attn.weight": (2, 2),
    "visual.merger.weight": (2, 2),
    "model.embed_tokens.weight": (9, 2),
    "model.layers.0.mlp.weight": (2, 2),
    "lm_head.weight": (9, 2),
}


def sources(expansion: Expansion) -> dict[str, list[str]]:
    """Checkpoints of every output tensor; of one that is copied, its name with a star."""
    return {
        spec.name: [f"*{expansion.checkpoints[spec.reference.checkpoint]}"]
        if spec.copied
        else [str(expansion.checkpoints[item.checkpoint]) for item in spec.inputs]
        for spec in expansion.tensors
    }


def test_encoder_and_decoder() -> None:
    """Each module has layers of its own; what is in none is taken from the base model, with a warning."""
    text = """\
merge_method: average
base_model: b
modules:
  encoder:
    slices:
      - sources: [{model: a, layer_range: [0, 3]}]
      - sources: [{model: b, layer_range: [1, 4]}]
  decoder:
    models: [{model: a}, {model: b}]
    parameters: {weight: [0, 1, 2]}
parameters: {weight: 1}
"""
    expansion = expand_text(text, T5)
    found = sources(expansion)
    assert ["a", "a", "a", "b", "b", "b"] == [found[f"encoder.block.{i}.layer.0.q.weight"][0] for i in range(6)]
    assert ["b"] == found["encoder.final_layer_norm.weight"]
    assert [["a", "b"]] * 3 == [found[f"decoder.block.{i}.layer.1.q.weight"] for i in range(3)]
    assert [0, 1, 2] == [
        spec.model_parameters[0]["weight"] for spec in expansion.tensors if spec.name.startswith("decoder.block")
    ]
    assert ["*b"] == found["shared.weight"] == found["lm_head.weight"]
    assert ("2 tensors in none of the modules and taken from b: 'shared.weight', 'lm_head.weight'",) == (
        expansion.warnings
    )
    (stack,) = expansion.stacks
    assert ("encoder.block.", "encoder", 6) == (stack.stack, stack.module, len(stack.layers))
    assert 6 == expansion.layer_count


def models(*modules: str) -> str:
    """Write a recipe that gives every module a model of its own."""
    lines = "".join(f"  {name}: {{models: [{{model: m{i}}}]}}\n" for i, name in enumerate(modules))
    return f"merge_method: average\nparameters: {{weight: 1}}\nmodules:\n{lines}"


def test_words_of_mergekit() -> None:
    """Recipes for vision models name parts by mergekit's words; the tensors' names have others for the same."""
    found = sources(expand_text(models("text_decoder", "vision_tower", "multi_modal_projector"), VISION))
    assert {
        "model.embed_tokens.weight": ["m0"],
        "model.layers.0.mlp.weight": ["m0"],
        "lm_head.weight": ["m0"],
        "visual.patch_embed.weight": ["m1"],
        "visual.blocks.0.attn.weight": ["m1"],
        "visual.merger.weight": ["m2"],
    } == found


@pytest.mark.parametrize("order", [("visual", "merger", "default"), ("default", "merger", "visual")])
def test_furthest_to_the_right(order: tuple[str, ...]) -> None:
    """A module inside another has its own tensors, whatever their order; default has the rest."""
    found = sources(expand_text(models(*order), VISION))
    assert [f"m{order.index('merger')}"] == found["visual.merger.weight"]
    assert [f"m{order.index('visual')}"] == found["visual.blocks.0.attn.weight"]
    assert [f"m{order.index('default')}"] == found["lm_head.weight"]
    assert VISION.keys() == found.keys()


def test_several_components() -> None:
    """A name with dots is a run of components; the longer of two that end alike has the tensor."""
    shapes = {"a.encoder.w": (1,), "b.encoder.w": (1,), "b.encoder.layers.0.a.encoder": (1,)}
    found = sources(expand_text(models("encoder", "b.encoder"), shapes))
    assert {"a.encoder.w": ["m0"], "b.encoder.w": ["m1"], "b.encoder.layers.0.a.encoder": ["m1"]} == found


def test_only_module() -> None:
    """A single module called default is the whole model."""
    assert list(VISION) == names(expand_text(models("default"), VISION))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ("encoder", "decodr"),
            "modules.decodr: no tensor belongs to a module named 'decodr'; expected a component of the tensors' names, "
            "or default for all others; the stacks of layers are encoder.block.*, decoder.block.*; "
            "did you mean 'decoder'?",
        ),
        (("block", "vision_tower"), "no tensor belongs to a module named 'vision_tower'"),
        (("text_decoder", "default"), "no tensor belongs to a module named 'default'"),
    ],
)
def test_unknown_module(modules: tuple[str, ...], message: str) -> None:
    """A module without tensors is refused, with the stacks that there are and the nearest name."""
    with pytest.raises(RecipeError) as caught:
        expand_text(models(*modules), T5)
    assert message in str(caught.value)


def test_slices_of_two_stacks() -> None:
    """Slices need one stack: the error says which there are, and that modules tell them apart."""
    with pytest.raises(RecipeError, match=r"say by 'modules' which slices are of which stack"):
        expand_text(
            "merge_method: average\nparameters: {weight: 1}\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]",
            T5,
        )

"""Slices: layers stacked from several checkpoints."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Expansion
from dovetail.io.errors import TensorMismatchError
from tests.engine.recipe.rows import expand_text, llama, names

FRANKEN = """\
# in the manner of mergekit's 44-layer example
merge_method: stack
slices:
  - sources:
    - model: orca
      layer_range: [0, 3]
  - sources:
    - model: platypus
      layer_range: [2, 4]
dtype: float16
"""

SUFFIXES = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")


def by_output(expansion: Expansion) -> dict[str, list[str]]:
    """Sources by output tensor, written ``checkpoint:name``."""
    return {
        spec.name: [f"{expansion.checkpoints[item.checkpoint]}:{item.name}" for item in spec.inputs]
        for spec in expansion.tensors
    }


def test_layers_are_stacked() -> None:
    """Layers are numbered on; embeddings are the first slice's, final norm and head the last slice's."""
    expansion = expand_text(FRANKEN, llama(4))
    expected = {"model.embed_tokens.weight": ["orca:model.embed_tokens.weight"]}
    for new, (model, old) in enumerate([("orca", 0), ("orca", 1), ("orca", 2), ("platypus", 2), ("platypus", 3)]):
        for suffix in SUFFIXES:
            expected[f"model.layers.{new}.{suffix}"] = [f"{model}:model.layers.{old}.{suffix}"]
    expected["model.norm.weight"] = ["platypus:model.norm.weight"]
    expected["lm_head.weight"] = ["platypus:lm_head.weight"]
    assert expected == by_output(expansion)
    assert list(expected) == names(expansion)
    assert 5 == expansion.layer_count
    assert [None, 0, 1, 2, 3, 4] == list(dict.fromkeys(spec.layer for spec in expansion.tensors))
    assert all(spec.base is None and spec.reference == spec.inputs[0] for spec in expansion.tensors)


def test_layer_twice() -> None:
    """A model may be stacked on itself."""
    expansion = expand_text(FRANKEN.replace("platypus", "orca"), llama(4))
    assert ["orca:model.layers.2.mlp.up_proj.weight"] == by_output(expansion)["model.layers.3.mlp.up_proj.weight"]
    assert 1 == len(expansion.checkpoints)


MERGED = """\
merge_method: sparse
base_model: base
slices:
  - sources:
      - {model: a, layer_range: [2, 5], parameters: {weight: [0, 1]}}
      - {model: base, layer_range: [0, 3]}
      - {model: b, layer_range: [1, 4]}
    parameters:
      weight: [{filter: layers.1., value: 5}, {value: 6}]
      lambda: [1, 2, 9]
  - sources:
      - {model: base, layer_range: [4, 5]}
      - {model: b, layer_range: [4, 5]}
parameters:
  weight: [7, 8]
  lambda: [3, 4]
"""


def test_base_and_models_have_layers_of_their_own() -> None:
    """Each source's layers come from its own range; the base is the origin of its slice."""
    expansion = expand_text(MERGED, llama(5))
    sources = by_output(expansion)
    name = "model.layers.{}.mlp.up_proj.weight"
    assert [f"a:{name.format(3)}", f"b:{name.format(2)}"] == sources[name.format(1)]
    assert [f"b:{name.format(4)}"] == sources[name.format(3)]
    bases = {spec.name: spec.base for spec in expansion.tensors}
    base = bases[name.format(3)]
    assert base is not None
    assert (0, name.format(4)) == base
    assert ["a:model.embed_tokens.weight", "b:model.embed_tokens.weight"] == sources["model.embed_tokens.weight"]
    assert ["b:lm_head.weight"] == sources["lm_head.weight"]
    assert 4 == expansion.layer_count


def test_precedence_and_gradients_of_slices() -> None:
    """Source beats slice beats recipe; gradients span the slice; a slice of one layer takes the last value.

    Filters of models' parameters look at the name in the model's own checkpoint, those of the merge's at the output's.
    """
    found = {
        spec.name: ([values["weight"] for values in spec.model_parameters], spec.parameters["lambda"])
        for spec in expand_text(MERGED, llama(5)).tensors
    }
    name = "model.layers.{}.mlp.up_proj.weight"
    # Output layer 0 is layer 1 of b, which the filter "layers.1." fits.
    assert ([0, 5], 1) == found[name.format(0)]
    assert ([0.5, 6], 2) == found[name.format(1)]
    assert ([1, 6], 9) == found[name.format(2)]
    assert ([8], 4) == found[name.format(3)]
    assert ([0, 6], 1) == found["model.embed_tokens.weight"]
    assert ([7], 3) == found["model.norm.weight"]


def test_gpt2_names() -> None:
    """Names of other architectures work alike: the stack's name is kept."""
    shapes = {"wte.weight": (9, 2), "wpe.weight": (4, 2)}
    shapes |= {f"h.{i}.ln_1.weight": (2,) for i in range(4)} | {"ln_f.weight": (2,)}
    expansion = expand_text(FRANKEN, shapes)
    assert ["wte.weight", "wpe.weight", *(f"h.{i}.ln_1.weight" for i in range(5)), "ln_f.weight"] == names(expansion)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[2, 4]",
            "[2, 5]",
            "slices[1].sources[0].layer_range is [2, 5]; expected at most 4, the number of layers of platypus",
        ),
        ("[0, 3]", "[0, 999999999]", "expected at most 4"),
    ],
)
def test_layers_that_are_not_there(old: str, new: str, message: str) -> None:
    """A range beyond the model's layers is refused by its key path."""
    with pytest.raises(RecipeError) as caught:
        expand_text(FRANKEN.replace(old, new), llama(4))
    assert message in str(caught.value)


def test_several_stacks() -> None:
    """Models with several stacks, or none, cannot be sliced, and the error says which stacks there are."""
    two = llama(4) | {"vision.blocks.0.w": (1,)}
    with pytest.raises(RecipeError, match=r"layers in orca are 'model.layers.\* \(4\), vision.blocks.\* \(1\)'"):
        expand_text(FRANKEN, two)
    with pytest.raises(RecipeError, match="layers in orca are 'none'"):
        expand_text(FRANKEN, {"w": (1,)})
    with pytest.raises(RecipeError, match="of the same name in every model"):
        expand_text(FRANKEN, {"orca": llama(4), "platypus": {f"layers.{i}.w": (1,) for i in range(4)}})


def test_layers_that_differ() -> None:
    """A layer that lacks a tensor of the base's, or has it in another shape, is merged without it, or refused."""
    text = MERGED.replace("[4, 5]", "[0, 1]")
    broken = llama(5)
    del broken["model.layers.3.mlp.up_proj.weight"]
    other = llama(5) | {"model.layers.3.mlp.up_proj.weight": (1, 1)}
    for catalogue, message in ((broken, "is missing in checkpoint a"), (other, "of checkpoint a has shape")):
        shapes = {"base": llama(5), "a": catalogue, "b": llama(5)}
        expansion = expand_text(text, shapes)
        assert ["b:model.layers.2.mlp.up_proj.weight"] == by_output(expansion)["model.layers.1.mlp.up_proj.weight"]
        (spec,) = [item for item in expansion.tensors if item.name == "model.layers.1.mlp.up_proj.weight"]
        assert [{"weight": 6, "n": 1, "m": 4}] == list(spec.model_parameters)
        assert "'model.layers.3.mlp.up_proj.weight'" in expansion.warnings[0]
        with pytest.raises(TensorMismatchError, match=f"'model.layers.3.mlp.up_proj.weight' {message}"):
            expand_text(text, shapes, strict=True)
    surplus = llama(5) | {"model.layers.2.bias": (8,), "score.weight": (2, 8), "model.layers.0.unused": (1,)}
    warnings = expand_text(text, {"base": llama(5), "a": surplus, "b": llama(5)}).warnings
    assert 1 == len(warnings)
    assert warnings[0].startswith("2 tensors with ")
    assert "of a: not in the output, as base lacks them (such as 'model.layers.2.bias')" in warnings[0]


def test_head_that_only_the_first_has() -> None:
    """The embedding of the last slice's model stands in for its head; if both are tied, there is no head."""
    tied = {name: shape for name, shape in llama(4).items() if name != "lm_head.weight"}
    head = by_output(expand_text(FRANKEN, {"orca": llama(4), "platypus": tied}))["lm_head.weight"]
    assert ["platypus:model.embed_tokens.weight"] == head
    head = by_output(expand_text(FRANKEN, {"orca": tied, "platypus": llama(4)}))["lm_head.weight"]
    assert ["platypus:lm_head.weight"] == head
    assert "lm_head.weight" not in names(expand_text(FRANKEN, tied))


def test_slices_of_a_module() -> None:
    """A single module may be made of slices."""
    indented = FRANKEN.replace("slices:", "modules:\n default:\n  slices:").replace("\n  -", "\n   -")
    indented = indented.replace("\n    -", "\n     -").replace("\n      layer", "\n       layer")
    assert by_output(expand_text(FRANKEN, llama(4))) == by_output(expand_text(indented, llama(4)))


def test_tensors_with_a_part_for_each_layer() -> None:
    """Tensors outside the layers that have columns for each, as Gemma 3n's, are named if layers move."""
    shapes = llama(4) | {"model.embed_tokens_per_layer.weight": (32, 16)}
    (warning,) = expand_text(FRANKEN, shapes).warnings
    assert warning.startswith("'model.embed_tokens_per_layer.weight' has a part for each layer, and slices move layers")
    still = FRANKEN.replace("[0, 3]", "[0, 2]")
    assert () == expand_text(still, shapes).warnings


def test_slices_of_no_layers() -> None:
    """A range that takes no layer is named in a warning, and a model without any layer is an error."""
    expansion = expand_text(FRANKEN.replace("[2, 4]", "[2, 2]"), llama(4))
    assert 3 == expansion.layer_count
    (warning,) = [text for text in expansion.warnings if "takes no layer" in text]
    assert warning.startswith("slices[1].sources[0] takes no layer: its range is [2, 2]")
    with pytest.raises(RecipeError, match="the slices take no layers at all; expected at least one layer"):
        expand_text(FRANKEN.replace("[2, 4]", "[2, 2]").replace("[0, 3]", "[3, 3]"), llama(4))


SHORT = """\
merge_method: stack
slices:
  - sources: [{model: orca, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 2]}]
"""


def test_layers_of_another_width() -> None:
    """Layers that do not fit the model whose configuration the output has are an error, or a warning if asked for."""
    wide = {name: tuple(2 * size for size in shape) for name, shape in llama(2).items()}
    with pytest.raises(TensorMismatchError, match=r"of b, in a layer that slices take, has shape .* of one size"):
        expand_text(SHORT, {"orca": llama(2), "b": wide})
    expansion = expand_text(SHORT, {"orca": llama(2), "b": wide}, allow_partial=True)
    assert any("of b, in a layer that slices take, has shape" in text for text in expansion.warnings)


def test_layers_with_other_tensors() -> None:
    """Tensors that layers have or lack beside the first model's are named, and refused in a strict merge."""
    biased = {**llama(2), **{f"model.layers.{i}.self_attn.q_proj.bias": (8,) for i in range(2)}}
    (warning,) = expand_text(SHORT, {"orca": llama(2), "b": biased}).warnings
    assert warning.startswith("1 tensor in layers of b that no layer of orca has, whose config.json the output has")
    (warning,) = expand_text(SHORT, {"orca": biased, "b": llama(2)}).warnings
    assert warning.startswith(
        "1 tensor that all layers of orca have, whose config.json the output has, and layers of b"
    )
    hybrid = {name: shape for name, shape in biased.items() if "layers.0.self_attn.q_proj.bias" not in name}
    with pytest.raises(TensorMismatchError, match=r"has, whose config.json the output has .*; expected layers with"):
        expand_text(SHORT, {"orca": llama(2), "b": biased}, strict=True)
    assert () == expand_text(SHORT, {"orca": hybrid, "b": biased}).warnings
    assert () == expand_text(SHORT, {"orca": hybrid, "b": llama(2)}).warnings

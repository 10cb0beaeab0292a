"""Whole models: every tensor with its sources and parameters."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import Expansion, SourceTensor, TensorSpec, expand
from dovetail.io.errors import TensorMismatchError
from tests.engine.recipe.rows import TABLE, expand_text, llama, names, read
from tests.pace import within

TIES_LIKE = """\
# in the manner of mergekit's ties example: gradients, filters and a base that is not listed
merge_method: sparse
base_model: base
models:
  - model: orca
    parameters:
      n: [4, 3, 2]
      weight: 1.0
  - model: platypus
    parameters:
      n: 2
      weight: [0, 0.5, 0.75, 1]
  - model: math
    parameters:
      n: 1
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
parameters:
  m: 8
  lambda:
    - filter: layernorm
      value: 2
dtype: float16
"""


def resolved(text: str, name: str, layers: int = 7) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Parameters of one tensor of a recipe over Llama-like models."""
    expansion = expand_text(text, llama(layers))
    spec = next(spec for spec in expansion.tensors if spec.name == name)
    return dict(spec.parameters), [dict(values) for values in spec.model_parameters]


def weights(text: str, name: str, layers: int = 7) -> list[float]:
    """Weights of one tensor's models."""
    return [values["weight"] for values in resolved(text, name, layers)[1]]


def test_tensors_and_sources() -> None:
    """The output has the base model's tensors in its file's order; every model gives its tensor of that name."""
    shapes = llama(2)
    expansion = expand_text(TIES_LIKE, shapes)
    assert list(shapes) == names(expansion)
    assert ["base", "orca", "platypus", "math"] == [str(ref) for ref in expansion.checkpoints]
    assert (2, ()) == (expansion.layer_count, expansion.warnings)
    for spec in expansion.tensors:
        assert SourceTensor(0, spec.name) == spec.base == spec.reference
        assert tuple(SourceTensor(i, spec.name) for i in (1, 2, 3)) == spec.inputs
        assert {"pruning_order", "overlap", "balanced", "lambda"} == set(spec.parameters)
        assert [{"weight", "n", "m"}] * 3 == [set(values) for values in spec.model_parameters]
    layers = {spec.name: spec.layer for spec in expansion.tensors}
    assert (None, 0, 1) == tuple(
        layers[name] for name in ("model.norm.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)))
    )


@pytest.mark.parametrize(
    ("name", "expected_weights", "expected_n"),
    [
        ("model.embed_tokens.weight", [1, 0, 0], [4, 2, 1]),
        ("lm_head.weight", [1, 0, 0], [4, 2, 1]),
        ("model.layers.0.mlp.up_proj.weight", [1, 0, 0.5], [4, 2, 1]),
        ("model.layers.1.mlp.up_proj.weight", [1, 0.25, 0.5], [4, 2, 1]),  # 1/6: n = 4 - 1/3
        ("model.layers.2.self_attn.q_proj.weight", [1, 0.5, 0], [3, 2, 1]),  # 2/6: n = 4 - 2/3
        ("model.layers.3.self_attn.q_proj.weight", [1, 0.625, 0], [3, 2, 1]),
        ("model.layers.6.mlp.up_proj.weight", [1, 1, 0.5], [2, 2, 1]),
    ],
)
def test_gradients_over_layers(name: str, expected_weights: list[float], expected_n: list[int]) -> None:
    """Gradients go from the first layer to the last; embeddings, final norm and head take the first value."""
    assert expected_weights == pytest.approx(weights(TIES_LIKE, name))
    assert expected_n == [values["n"] for values in resolved(TIES_LIKE, name)[1]]


def test_only_layer_takes_the_last_value() -> None:
    """mergekit puts the only layer of a model at the end of its gradients."""
    assert [1, 1, 0.5] == weights(TIES_LIKE, "model.layers.0.mlp.up_proj.weight", layers=1)


def test_stacks_have_gradients_of_their_own() -> None:
    """In an encoder and a decoder of different depth, gradients span each stack."""
    shapes = {f"encoder.block.{i}.layer.0.w": (1,) for i in range(5)}
    shapes |= {f"decoder.block.{i}.layer.1.w": (1,) for i in range(3)}
    text = "merge_method: average\nmodels: [{model: a}, {model: b}]\nparameters: {weight: [0, 1]}"
    found = {spec.name: spec.model_parameters[0]["weight"] for spec in expand_text(text, shapes).tensors}
    assert [0, 0.25, 0.5, 0.75, 1] == [found[f"encoder.block.{i}.layer.0.w"] for i in range(5)]
    assert [0, 0.5, 1] == [found[f"decoder.block.{i}.layer.1.w"] for i in range(3)]


def test_filters_without_a_fit_fall_back() -> None:
    """Where no filter fits, the next weaker place counts, and last the method's default."""
    assert 2 == resolved(TIES_LIKE, "model.layers.0.input_layernorm.weight")[0]["lambda"]
    assert 1 == resolved(TIES_LIKE, "model.norm.weight")[0]["lambda"]
    text = TIES_LIKE.replace("        - value: 0\n", "").replace("  m: 8", "  m: 8\n  weight: 9")
    assert [1, 0, 9] == weights(text, "model.norm.weight")


def test_first_fitting_filter_counts() -> None:
    """Filters are parts of names, tried in order; "*" and none at all fit every tensor; case counts."""
    text = (
        "merge_method: average\nmodels: [{model: a}]\nparameters:\n  weight:\n"
        "  - {filter: MLP, value: 7}\n  - {filter: layers.1., value: 1}\n  - {filter: mlp, value: 2}\n"
        "  - {filter: '*', value: 3}\n  - {filter: self_attn, value: 4}\n"
    )
    assert [1] == weights(text, "model.layers.1.mlp.up_proj.weight")
    assert [2] == weights(text, "model.layers.2.mlp.up_proj.weight")
    assert [3] == weights(text, "model.layers.2.self_attn.q_proj.weight")


def test_slerp_like_filters() -> None:
    """Gradients within filters, as in mergekit's slerp example, over 5 layers."""
    text = (
        "merge_method: blend\nbase_model: base\nmodels: [{model: base}, {model: other}]\nparameters:\n  t:\n"
        "  - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}\n  - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}\n"
        "  - value: 0.5 # fallback for rest of tensors\n"
    )
    for i, (attention, mlp) in enumerate(zip([0, 0.5, 0.3, 0.7, 1], [1, 0.5, 0.7, 0.3, 0], strict=True)):
        assert attention == resolved(text, f"model.layers.{i}.self_attn.q_proj.weight", 5)[0]["t"]
        assert mlp == resolved(text, f"model.layers.{i}.mlp.up_proj.weight", 5)[0]["t"]
        assert 0.5 == resolved(text, f"model.layers.{i}.input_layernorm.weight", 5)[0]["t"]
    assert 0.5 == resolved(text, "lm_head.weight", 5)[0]["t"]


def test_model_beats_module_beats_recipe() -> None:
    """A model's own parameters win over the module's, and those over the recipe's."""
    text = (
        "merge_method: average\nparameters: {weight: 1, normalize: false}\nmodules:\n  default:\n"
        "    parameters: {weight: 2}\n    models: [{model: a}, {model: b, parameters: {weight: 3}}]\n"
    )
    assert ({"normalize": False}, [{"weight": 2}, {"weight": 3}]) == resolved(text, "lm_head.weight")


def test_required_value_that_no_filter_gives() -> None:
    """A tensor that no filter fits has no value: the error names parameter, model and tensor."""
    text = "merge_method: average\nmodels: [{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}]"
    with pytest.raises(RecipeError) as caught:
        expand_text(text, llama(1))
    assert (
        "recipe, line 2: models[0].parameters.weight has no value of model a for tensor 'model.embed_tokens.weight': "
        "none of the filters fits; expected a value for every tensor; "
        "add an item {value: VALUE} without a filter as the last"
    ) == str(caught.value)


def test_pruning_order_reorders_everything() -> None:
    """Inputs and per-model parameters follow the order together."""
    text = TIES_LIKE.replace("  m: 8", "  m: 8\n  pruning_order: [math, orca, platypus]")
    expansion = expand_text(text, llama(1))
    first = expansion.tensors[0]
    assert ["math", "orca", "platypus"] == [str(expansion.checkpoints[i]) for i, _ in first.inputs]
    assert [1, 4, 2] == [values["n"] for values in first.model_parameters]
    assert ("math", "orca", "platypus") == first.parameters["pruning_order"]


def test_cabs_keys_of_the_pull_request() -> None:
    """Keys of mergekit's CABS pull request: a model's own values, and defaults for the others."""
    text = (
        "merge_method: sparse\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: .6, n_val: 3, m_val: 32}}\n"
        "- {model: b, parameters: {weight: 0.4}}\n"
        "parameters: {default_n_val: 8, default_m_val: 32, pruning_order: [b, a]}\n"
    )
    expected = [{"weight": 0.4, "n": 8, "m": 32}, {"weight": 0.6, "n": 3, "m": 32}]
    assert expected == resolved(text, "lm_head.weight")[1]


def test_reference_of_methods_without_base() -> None:
    """A base model that is not an origin still decides names, order and shapes; without one the first model does."""
    text = "merge_method: average\nbase_model: b\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    spec = expand_text(text, llama(1)).tensors[0]
    assert spec.base is None
    assert "model.embed_tokens.weight" == spec.reference.name
    assert (0, (1, 0)) == (spec.reference.checkpoint, tuple(item.checkpoint for item in spec.inputs))
    spec = expand_text(text.replace("base_model: b\n", ""), llama(1)).tensors[0]
    assert (0, (0, 1)) == (spec.reference.checkpoint, tuple(item.checkpoint for item in spec.inputs))


def spec_of(expansion: Expansion, name: str) -> TensorSpec:
    """Find an output tensor by its name."""
    (spec,) = [item for item in expansion.tensors if item.name == name]
    return spec


PAIR = "merge_method: sparse\nbase_model: base\nmodels: [{model: a}]\nparameters: {weight: 1}"


def test_missing_tensor() -> None:
    """A tensor of the base that the only model lacks is the base's own; --strict makes it an error that names both."""
    short = {name: shape for name, shape in llama(2).items() if name != "model.layers.1.mlp.up_proj.weight"}
    expansion = expand_text(PAIR, {"base": llama(2), "a": short})
    assert list(llama(2)) == names(expansion)
    assert ["model.layers.1.mlp.up_proj.weight"] == [spec.name for spec in expansion.tensors if spec.copied]
    assert (
        "1 tensor with 13.9% of the elements of base: missing in a, and merged without it (such as "
        "'model.layers.1.mlp.up_proj.weight')",
        "1 tensor not merged, as too few models have them, but taken as they are (such as "
        "'model.layers.1.mlp.up_proj.weight')",
    ) == expansion.warnings
    with pytest.raises(TensorMismatchError) as caught:
        expand_text(PAIR, {"base": llama(2), "a": short}, strict=True)
    assert "tensor 'model.layers.1.mlp.up_proj.weight' is missing in checkpoint a" in str(caught.value)
    assert 3 == caught.value.exit_code


def test_other_shape() -> None:
    """A model with a tensor of another shape is left out of it; --strict makes it an error that names both shapes."""
    shapes = {"base": llama(1), "a": llama(1) | {"model.norm.weight": (9,)}, "b": llama(1)}
    text = PAIR.replace("{model: a}", "{model: a}, {model: b}")
    expansion = expand_text(text, shapes)
    assert [2] == [item.checkpoint for item in spec_of(expansion, "model.norm.weight").inputs]
    expected = (
        "1 tensor with 1.2% of the elements of a: of another shape than in base, and merged without it (such as "
        "'model.norm.weight')"
    )
    assert (expected,) == expansion.warnings
    with pytest.raises(TensorMismatchError) as caught:
        expand_text(text, shapes, strict=True)
    assert "'model.norm.weight' of checkpoint a has shape [9]; expected [8], as in base" in str(caught.value)


@pytest.mark.parametrize("rows", [31, 33])
def test_other_number_of_rows(rows: int) -> None:
    """Embedding and head are merged all the same, cut or filled to the base's rows; --strict makes it an error."""
    changed = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (rows, 8))
    shapes = {"base": llama(1), "a": llama(1) | changed}
    expansion = expand_text(PAIR, shapes)
    for name in changed:
        assert [1] == [item.checkpoint for item in spec_of(expansion, name).inputs]
    (warning,) = expansion.warnings
    assert ("of a: cut to the rows of base" if rows > 32 else "fewer rows than in base") in warning
    with pytest.raises(TensorMismatchError, match=rf"has shape \[{rows}, 8\]; expected \[32, 8\], as in base"):
        expand_text(PAIR, shapes, strict=True)


def test_model_of_another_architecture() -> None:
    """A model of which nothing can be merged is refused."""
    with pytest.raises(TensorMismatchError, match="checkpoint a has no tensor of the name and shape that base has"):
        expand_text(PAIR, {"base": llama(1), "a": llama(1, 9)})


def test_surplus_tensors() -> None:
    """Tensors that only a model has are left out, with a warning."""
    expansion = expand_text(PAIR, {"base": llama(1), "a": llama(2)})
    assert list(llama(1)) == names(expansion)
    assert 1 == len(expansion.warnings)
    assert "3 tensors with 21.7% of the elements of a: not in the output, as base lacks them" in expansion.warnings[0]
    with pytest.raises(TensorMismatchError, match="of checkpoint a is missing in the others"):
        expand_text(PAIR, {"base": llama(1), "a": llama(2)}, strict=True)


def test_no_tensors() -> None:
    """Empty checkpoints make an empty output."""
    expansion = expand_text(PAIR, {"base": {}, "a": {}})
    assert ((), 0) == (expansion.tensors, expansion.layer_count)


def test_specs_cross_processes() -> None:
    """An expansion survives pickling."""
    expansion = expand_text(TIES_LIKE, llama(2))
    assert expansion == pickle.loads(pickle.dumps(expansion))


def test_fifty_thousand_tensors() -> None:
    """A mixture of experts of 50,000 tensors is expanded in well under a second on a usual machine."""
    shapes = {
        f"model.layers.{i}.mlp.experts.{k}.{part}_proj.weight": (8, 8)
        for i in range(90)
        for k in range(186)
        for part in ("gate", "up", "down")
    }
    recipe = read(TIES_LIKE)
    catalogues = {ref: dict(shapes) for ref in recipe.references()}
    with within(1):
        expansion = expand(recipe, TABLE["sparse"], catalogues)
    assert 50_220 == len(expansion.tensors)
    # Tensors that are treated alike share their parameters.
    assert len({id(spec.model_parameters) for spec in expansion.tensors}) <= 2 * 90

"""Configurations of models whose layers were stacked anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dovetail.engine.planning.layer_config import restack
from dovetail.engine.recipe import StackedLayers


def stacked(*layers: tuple[int, int], stack: str = "model.layers.", module: str | None = None, **lengths: int) -> Any:
    """Make a stack of layers of two checkpoints of four layers each."""
    beyond = lengths.get("beyond", 0)
    return StackedLayers(
        stack, module, (lengths.get("first", 4), 4), layers, (beyond, beyond) if beyond else (), lengths.get("kept", 0)
    )


def restacked(config: dict[str, Any], *stacks: StackedLayers, other: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Give the new configuration and the warnings; the second checkpoint has the same one, or `other`."""
    changed = copy.deepcopy(config)
    warnings = restack(changed, stacks, [config, config if other is None else other], 0)
    return changed, warnings


MIXED = stacked((0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (0, 3))


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"])
def test_count(key: str) -> None:
    """The number of layers is set, whatever its key."""
    assert ({key: 6, "hidden_size": 4}, []) == restacked({key: 4, "hidden_size": 4}, MIXED)


def test_nested_count() -> None:
    """Configurations of vision models nest that of the text; of several, the stack's own is changed."""
    config = {"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 4, "depth": 9}}
    expected = {**config, "text_config": {"num_hidden_layers": 6}}
    text = stacked(*MIXED.layers, stack="model.language_model.layers.", module="language_model")
    assert (expected, []) == restacked(config, text)
    vision = stacked(*MIXED.layers, stack="visual.blocks.", module="visual")
    expected = {**config, "vision_config": {"num_hidden_layers": 6, "depth": 9}}
    assert (expected, []) == restacked(config, vision)


def test_encoder_and_decoder() -> None:
    """Keys of encoder and decoder in one configuration are told apart by their words."""
    config = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    encoder = stacked(*MIXED.layers, stack="model.encoder.layers.", module="encoder")
    decoder = stacked((0, 0), stack="model.decoder.layers.", module="decoder")
    assert ({"encoder_layers": 6, "decoder_layers": 1, "num_hidden_layers": 6}, []) == restacked(
        config, encoder, decoder
    )
    config = {"num_layers": 4, "num_decoder_layers": 4}
    decoder = stacked((0, 0), stack="decoder.block.", module="decoder")
    assert ({"num_layers": 4, "num_decoder_layers": 1}, []) == restacked(config, decoder)


def test_settings_of_single_layers() -> None:
    """A list with an entry for each layer follows the layers, each from the checkpoint it came from."""
    config = {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "eos_token_id": [1, 2, 3, 4]}
    other = {"num_hidden_layers": 4, "layer_types": ["A", "B", "C", "D"]}
    expected = {**config, "num_hidden_layers": 6, "layer_types": ["a", "b", "B", "C", "D", "d"]}
    assert (expected, []) == restacked(config, MIXED, other=other)
    expected["layer_types"] = ["a", "b", "b", "c", "d", "d"]
    assert (expected, []) == restacked(config, MIXED, other={})


def test_kinds_by_number() -> None:
    """What says by a layer's number of which kind it is cannot be adapted: it is named, unless no layer moves."""
    config = {"num_hidden_layers": 4, "max_window_layers": 3, "attn_layer_period": 2}
    changed, warnings = restacked(config, MIXED)
    assert {**config, "num_hidden_layers": 6} == changed
    assert ["max_window_layers", "attn_layer_period"] == [text.split()[3] for text in warnings]
    assert (config, []) == restacked(config, stacked(*((1, i) for i in range(4))))
    assert [] == restacked({"num_hidden_layers": 4, "max_window_layers": 3, "use_sliding_window": False}, MIXED)[1]


def test_no_count() -> None:
    """A configuration that does not say how many layers there are is left alone, with a warning."""
    changed, warnings = restacked({"hidden_size": 4}, MIXED)
    assert {"hidden_size": 4} == changed
    assert ["config.json has no number of layers for model.layers.*, which has 6 now: check it before use"] == warnings


def test_count_by_a_list() -> None:
    """A configuration that has no number of layers, but a list with the kind of each, has that list follow."""
    config = {"hidden_size": 4, "layers_block_type": ["a", "b", "c", "d"], "mtp_layers_block_type": list("efgh")}
    assert ({**config, "layers_block_type": list("abbcdd")}, []) == restacked(config, MIXED)


def test_base_model_that_is_in_no_slice() -> None:
    """The configuration of a checkpoint whose layers are not used says itself how many it has."""
    config = {"num_hidden_layers": 5, "layer_types": list("abcde")}
    changed, _ = restacked(config, stacked((1, 0), (1, 3), first=0), other={"layer_types": list("ABCD")})
    assert {"num_hidden_layers": 2, "layer_types": ["A", "D"]} == changed


# Layers 0, 1, 1, 2, 3, 3 of four: what a configuration says of each.
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mlp_layer_types", ["dense", "sparse", "sparse", "dense"], ["dense", *["sparse"] * 3, "dense", "dense"]),
        ("num_key_value_heads", [1, 2, 3, 4], [1, 2, 2, 3, 4, 4]),
        ("block_configs", [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}], [{"a": i} for i in (0, 1, 1, 2, 3, 3)]),
        ("no_rope_layers", [1, 1, 1, 0], [1, 1, 1, 1, 0, 0]),
        ("moe_layer_freq", [0, 1, 1, 1], [0, 1, 1, 1, 1, 1]),
        ("hybrid_override_pattern", "M-*E", "M--*EE"),
        ("layer_types", "sffs", "sfffss"),
        ("full_attn_idxs", [3], [4, 5]),
        ("attn_layer_indices", [1, 3], [1, 2, 4, 5]),
        ("hybrid_layer_ids", [0, 2], [0, 3]),
        ("moe_layers", [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
        ("mlp_only_layers", [], []),
        ("moe_layers_enum", "1,2,3", "1,2,3,4,5"),
        ("moe_layers_enum", "1, 3", "1,2,4,5"),
        ("layers_configs", {str(i): i for i in range(4)}, {str(i): n for i, n in enumerate((0, 1, 1, 2, 3, 3))}),
        ("linear_attn_config", {"full_attn_layers": [4], "kda_layers": [1, 2, 3], "num_heads": 4, "head_dim": 3}, {
            "full_attn_layers": [5, 6], "kda_layers": [1, 2, 3, 4], "num_heads": 4, "head_dim": 3,
        }),
    ],
)  # fmt: skip
def test_forms_of_settings(key: str, value: object, expected: object) -> None:
    """Lists, texts, lists of layers and mappings by layer follow the layers, whatever their names."""
    config = {"num_hidden_layers": 4, key: value}
    moved = stacked((0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (0, 3))
    assert ({"num_hidden_layers": 6, key: expected}, []) == restacked(config, moved)


def test_lists_of_layers_of_two_models() -> None:
    """Whether a list names a layer is asked of the model that the layer came from; each may count in its own way."""
    ours = {"num_hidden_layers": 4, "attention": {"full_layers": [0, 3]}, "attn_layers": [0]}
    theirs = {"num_hidden_layers": 4, "attention": {"full_layers": [1, 4]}, "attn_layers": [3]}
    moved = stacked((0, 0), (1, 0), (1, 1), (1, 3))
    changed, warnings = restacked(ours, moved, other=theirs)
    assert [] == warnings
    assert {"num_hidden_layers": 4, "attention": {"full_layers": [0, 1, 3]}, "attn_layers": [0, 3]} == changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_scaling", {"short_factor": [1.0] * 4, "mrope_section": [1, 1, 1, 1]}),
        ("eos_token_id", [0, 1, 2, 3]),
        ("bos_token_ids", [0, 1]),
        ("architectures", ["A", "B", "C", "D"]),
        ("id2label", {"0": "a", "1": "b", "2": "c", "3": "d"}),
        ("hidden_act", "silu"),
        ("layer_norm_kind", "post"),
        ("num_experts", 4),
        ("use_layer_scale", True),
        ("decoder_sparse_step", 1),
        ("shared_expert_intermediate_size", 4),
        ("attention_dropout", 1),
    ],
)
def test_settings_that_are_not_of_layers(key: str, value: object) -> None:
    """A setting that has as many entries as there are layers by chance is left alone."""
    changed, warnings = restacked({"num_hidden_layers": 4, key: value}, MIXED)
    assert ({"num_hidden_layers": 6, key: value}, []) == (changed, warnings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sliding_window_pattern", "LLG"),
        ("hybrid_override_pattern", "(M*)2"),
        ("num_kv_shared_layers", 2),
        ("num_dense_layers", 1),
        ("moe_layer_start_index", 1),
        ("moe_layer_interval", 2),
        ("interleave_moe_layer_step", 2),
        ("first_k_dense_replace", 1),
        ("attn_every_n_layers", 2),
        ("full_attention_interval", 4),
        ("expert_layer_offset", 1),
        ("attn_layer_indices", [1, 9]),
        ("hybrid_layer_ids", [1, 1]),
    ],
)
def test_rules_that_cannot_follow(key: str, value: object) -> None:
    """What says by a rule, or for other layers than there are, which layer is of which kind is named in a warning."""
    changed, warnings = restacked({"num_hidden_layers": 4, key: value}, MIXED)
    assert {"num_hidden_layers": 6, key: value} == changed
    assert [f"config.json says by {key} which"] == [" ".join(text.split()[:5]) for text in warnings]


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"])
@pytest.mark.parametrize(("kept", "kinds"), [(1, "abbcdde"), (0, "abbcdd")])
def test_prediction_layers(key: str, kept: int, kinds: str) -> None:
    """Their number follows, and a list that has entries for them too keeps these if the layers are kept."""
    moved = stacked((0, 0), (0, 1), (1, 1), (1, 2), (1, 3), (0, 3), beyond=1, kept=kept)
    config = {"num_hidden_layers": 4, key: 1, "layer_types": list("abcde"), "mlp_layer_types": list("abcd")}
    expected = {"num_hidden_layers": 6, key: kept, "layer_types": list(kinds), "mlp_layer_types": list("abbcdd")}
    assert (expected, []) == restacked(config, moved)


def test_prediction_layers_that_are_not_stored() -> None:
    """A number of layers that no checkpoint stores stays: fine-tunes come without them, and it was so before."""
    config = {"num_hidden_layers": 4, "num_nextn_predict_layers": 1}
    assert ({**config, "num_hidden_layers": 6}, []) == restacked(config, MIXED)

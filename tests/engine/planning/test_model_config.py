"""Configurations of models whose layers were stacked anew, or whose heads are tied no more."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dovetail.engine.planning.layer_config import restack
from dovetail.engine.planning.model_config import says_tied, set_tie
from dovetail.engine.recipe import StackedLayers


def stacked(*layers: tuple[int, int], stack: str = "model.layers.", module: str | None = None, **lengths: int) -> Any:
    """Make a stack of layers of two checkpoints of four layers each."""
    return StackedLayers(stack, module, (lengths.get("first", 4), 4), layers)


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


def test_base_model_that_is_in_no_slice() -> None:
    """The configuration of a checkpoint whose layers are not used says itself how many it has."""
    config = {"num_hidden_layers": 5, "layer_types": list("abcde")}
    changed, _ = restacked(config, stacked((1, 0), (1, 3), first=0), other={"layer_types": list("ABCD")})
    assert {"num_hidden_layers": 2, "layer_types": ["A", "D"]} == changed


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": "yes"}, None),
        ({"text_config": {"tie_word_embeddings": False}}, False),
    ],
)
def test_tied(config: dict[str, Any], expected: bool | None) -> None:
    """The key may be nested; afterwards it says no wherever it stood, or at the top."""
    assert says_tied(config) is expected
    set_tie(config, False)
    assert says_tied(config) is False

"""What a configuration says of tied heads and numbers of layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dovetail.engine.planning.model_config import depth_of, says_tied, set_tie
from dovetail.engine.recipe.prediction import Depth


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": "yes"}, None),
        ({"text_config": {"tie_word_embeddings": False}}, False),
        ({"thinker_config": {"text_config": {"tie_word_embeddings": True}}}, True),
        ({"text_config": {"tie_word_embeddings": True}, "tie_word_embeddings": False}, False),
        ({"vision_config": {"tie_word_embeddings": True}, "text_config": {}}, None),
        ({"audio_config": {"text_config": {"tie_word_embeddings": True}}}, None),
    ],
)
@pytest.mark.parametrize("tie", [True, False])
def test_tied(config: dict[str, Any], expected: bool | None, tie: bool) -> None:
    """The top decides, then the language model's own configuration; afterwards both say what was set, and no other."""
    config = copy.deepcopy(config)
    others = copy.deepcopy([config.get("vision_config"), config.get("audio_config")])
    assert says_tied(config) is expected
    set_tie(config, tie)
    assert says_tied(config) is tie
    assert says_tied(config.get("text_config", {"tie_word_embeddings": tie})) is tie
    assert others == [config.get("vision_config"), config.get("audio_config")]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Depth(None)),
        ({"num_hidden_layers": 4}, Depth(4)),
        ({"n_layer": 4, "num_nextn_predict_layers": 2}, Depth(4, 2)),
        ({"text_config": {"num_hidden_layers": 3, "mtp_num_hidden_layers": 1}}, Depth(3, 1)),
        ({"num_hidden_layers": 2, "text_config": {"num_hidden_layers": 3}}, Depth(3)),
        ({"vision_config": {"num_hidden_layers": 3}}, Depth(None)),
        ({"num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 4}, Depth(None)),
        ({"num_hidden_layers": "4", "use_mtp": True, "num_mtp_modules": None}, Depth(None)),
        ({"num_hidden_layers": -1}, Depth(None)),
    ],
)
def test_depth(config: dict[str, Any] | None, expected: Depth) -> None:
    """The language model's layers and prediction layers are counted wherever its configuration lies."""
    assert expected == depth_of(config)

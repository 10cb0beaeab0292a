"""What configurations say of quantisation, wherever they say it, and taking it out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dovetail.io.formats.quantised.settings import drop_settings, find_settings

SECTION = {"quant_method": "FP8", "weight_block_size": [128, 64]}

PLACES: dict[str, dict[str, Any]] = {
    "quantization_config": {"quantization_config": SECTION},
    "compression_config": {"compression_config": SECTION},
    "text_config.quantization_config": {"text_config": {"quantization_config": SECTION}},
    "vision_config.quantization_config": {"vision_config": {"quantization_config": SECTION}},
    "language_config.quantization_config": {"language_config": {"quantization_config": SECTION}},
    "thinker_config.text_config.quantization_config": {
        "thinker_config": {"text_config": {"quantization_config": SECTION}}
    },
    "quantization": {"quantization": {**SECTION, "bits": 8}},
}


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_found_and_dropped_wherever_they_lie(place: str) -> None:
    """Place, method and blocks are found; dropping them leaves all else."""
    config = {**copy.deepcopy(PLACES[place]), "model_type": "x", "layers": [{"a": 1}]}
    settings = find_settings(config)
    assert ((f"config.json has a {place}", "fp8"),) == settings.places
    assert ((128, 64),) == settings.blocks
    drop_settings(config)
    assert () == find_settings(config).places
    assert ("x", [{"a": 1}]) == (config["model_type"], config["layers"])
    *parents, _ = place.split(".")
    assert all(parent in config for parent in parents[:1])


@pytest.mark.parametrize(
    "config",
    [None, {}, {"quantization_config": None}, {"quantization": {"codebook": 3}}, {"quantization": "none"}],
    ids=str,
)
def test_nothing_said(config: dict[str, Any] | None) -> None:
    """A null, or another thing called quantization (that of an audio codec), says nothing, and stays."""
    assert () == find_settings(config).places
    kept = dict(config or {})
    drop_settings(kept)
    assert (config or {}) == kept


def test_groups_of_compressed_tensors() -> None:
    """Formats and blocks of its groups count; blocks that are no pair of numbers do not."""
    group = {"format": "Float-Quantized", "weights": {"block_structure": [16, 32]}}
    odd = {"weights": {"block_structure": "16x32"}}
    section = {"quant_method": "compressed-tensors", "config_groups": {"a": group, "b": odd, "c": None}}
    settings = find_settings({"quantization_config": section})
    assert ((16, 32),) == settings.blocks
    assert {"float-quantized"} == settings.formats


def test_the_format_of_experts_goes_too() -> None:
    """DeepSeek names the format of its experts beside the section."""
    config = {"quantization_config": SECTION, "expert_dtype": "fp4"}
    drop_settings(config)
    assert {} == config


def test_the_method_that_is_not_read_is_named() -> None:
    """Of several methods, messages name one that is not read."""
    config = {"quantization_config": SECTION, "vision_config": {"quantization_config": {"quant_method": "awq"}}}
    assert "config.json has a vision_config.quantization_config (awq)" == find_settings(config).evidence

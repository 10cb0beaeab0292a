"""Configurations of mixtures of experts."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.engine.planning.experts.architectures import ARCHITECTURES, moe_config

transformers = pytest.importorskip("transformers")

SHARED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "max_position_embeddings", "hidden_act", "tie_word_embeddings", "vocab_size",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Mixtral", "llama"), ("Mixtral", "mistral"), ("Qwen MoE", "qwen2"), ("Qwen3 MoE", "qwen3")],
)
def test_what_a_configuration_leaves_out_keeps_its_meaning(name: str, kind: str) -> None:
    """Old configurations leave keys out, whose defaults differ between a dense model and a mixture of its kind."""
    given: dict[str, Any] = {"model_type": kind, "vocab_size": 99, "num_hidden_layers": 2, "hidden_size": 64}
    given |= {"num_attention_heads": 32, "intermediate_size": 128}
    dense = transformers.AutoConfig.for_model(**given)
    architecture = next(each for each in ARCHITECTURES if each.name == name)
    made = moe_config(architecture, given, 4, 2)
    loaded = transformers.AutoConfig.for_model(**made)
    assert {key: getattr(dense, key) for key in SHARED} == {key: getattr(loaded, key) for key in SHARED}
    assert dense.rope_parameters["rope_theta"] == loaded.rope_parameters["rope_theta"]
    if kind == "qwen3":
        assert dense.head_dim == loaded.head_dim
    assert [made["architectures"][0].removesuffix("ForCausalLM")] == [type(loaded).__name__.removesuffix("Config")]
    assert 2 == loaded.num_experts_per_tok
    assert 4 == getattr(loaded, "num_local_experts" if name == "Mixtral" else "num_experts")


def test_code_of_the_dense_model_is_not_named() -> None:
    """What would make libraries load the dense model's own code is left out."""
    given = {"model_type": "llama", "auto_map": {"AutoModel": "x"}, "num_attention_heads": 4}
    assert "auto_map" not in moe_config(ARCHITECTURES[0], given, 2, 1)

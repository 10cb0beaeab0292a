"""Settings by which models compute otherwise with weights of the same names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import plan
from dovetail.engine.planning.config_differences import config_differences
from tests.checkpoints import llama_tensors, write_checkpoint, write_recipe


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ({"rope_theta": 1e4}, {"rope_theta": 1e6}, "rope_theta (1000000.0 for 10000.0)"),
        ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e6}}, "rope_theta (1000000.0 for 10000.0)"),
        (
            {"rope_scaling": None},
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_type (llama3 for default)",
        ),
        ({"rope_scaling": {"type": "yarn"}}, {"rope_scaling": {"rope_type": "linear"}}, "rope_type (linear for yarn)"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "full_attention.rope_theta (10000.0 for 1000000.0)",
        ),
        ({"num_attention_heads": 32}, {"num_attention_heads": 16}, "num_attention_heads (16 for 32)"),
        ({"model_type": "llama"}, {"model_type": "gemma"}, "model_type (gemma for llama)"),
        ({"hidden_act": "silu"}, {"hidden_act": "gelu"}, "hidden_act (gelu for silu)"),
        ({"rms_norm_eps": 1e-6}, {"rms_norm_eps": 1e-5}, "rms_norm_eps (1e-05 for 1e-06)"),
        ({"sliding_window": 4096}, {"sliding_window": None}, "sliding_window (None for 4096)"),
        ({"attn_logit_softcapping": 50.0}, {"attn_logit_softcapping": None}, "attn_logit_softcapping (None for 50.0)"),
        ({"residual_multiplier": 0.2}, {"residual_multiplier": 1.0}, "residual_multiplier (1.0 for 0.2)"),
        ({"num_experts_per_tok": 2}, {"num_experts_per_tok": 4}, "num_experts_per_tok (4 for 2)"),
        ({"id2label": {"0": "yes", "1": "no"}}, {"id2label": {"0": "no", "1": "yes"}}, "id2label (not alike)"),
        ({"layer_types": ["a", "b"]}, {"layer_types": ["b", "a"]}, "layer_types (not alike)"),
        ({"text_config": {"rope_theta": 1e4}}, {"rope_theta": 1e6}, "rope_theta (1000000.0 for 10000.0)"),
    ],
)
def test_named(ours: dict[str, Any], theirs: dict[str, Any], named: str) -> None:
    """A setting that decides what weights mean is named with both values, wherever and in whichever form it stands."""
    said = config_differences([ours, theirs], ["A", "B"])
    expected = f"B uses its weights otherwise than A, whose config.json the output has, by {named}: "
    assert [f"{expected}check that the two belong together"] == said


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"eos_token_id": 2, "max_position_embeddings": 4096}, {"eos_token_id": 3, "max_position_embeddings": 8192}),
        ({"torch_dtype": "float16", "use_cache": True}, {"torch_dtype": "bfloat16", "use_cache": False}),
        (
            {"attention_dropout": 0.0, "router_aux_loss_coef": 0.1},
            {"attention_dropout": 0.1, "router_aux_loss_coef": 0},
        ),
        ({"rope_theta": 10000, "warmup_steps": 1}, {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "warmup_steps": 2}),
        ({"rope_theta": 1e4, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
        ({"model_type": "qwen2"}, {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}}),
        ({"layer_types": ["a", "b"]}, {"layer_types": ["a", "b", "a"]}),
        ({"hidden_act": "silu"}, {"vision_config": {"hidden_act": "gelu"}}),
        ({"hidden_act": "silu"}, None),
        (None, {"hidden_act": "silu"}),
    ],
)
def test_of_no_account(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    """What concerns training, generation or storage, what one does not say, and other parts are not compared."""
    assert [] == config_differences([ours, theirs], ["A", "B"])


def test_many(tmp_path: Path) -> None:
    """A plan warns of each model once, with four settings and the number of the others; models alike give nothing."""
    settings = {"rope_theta": 1, "hidden_act": "a", "rms_norm_eps": 1, "head_dim": 1, "num_key_value_heads": 1}
    changed = dict.fromkeys(settings, 2)
    for name, config in (("a", settings), ("b", changed), ("c", settings)):
        write_checkpoint(tmp_path / name, llama_tensors(0), config=config)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 1}} for name in "abc"]
    warnings = plan(write_recipe(tmp_path / "r.yml", merge_method="linear", models=models)).warnings
    assert 1 == len(warnings)
    assert f"{tmp_path / 'b'} uses its weights otherwise than {tmp_path / 'a'}" in warnings[0]
    assert "head_dim (2 for 1) and 1 other: check" in warnings[0]

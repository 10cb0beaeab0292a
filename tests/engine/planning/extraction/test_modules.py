"""What names and shapes say of modules."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.engine.planning.extraction.modules import Kind, is_head, kind_of, matches, ties_head

GPT2 = {"model_type": "gpt2"}


@pytest.mark.parametrize(
    ("name", "shape", "config", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", (8, 4), None, Kind.LINEAR),
        ("model.embed_tokens.weight", (8, 4), None, Kind.EMBEDDING),
        ("embeddings.position_embeddings.weight", (8, 4), None, Kind.EMBEDDING),
        ("transformer.wpe.weight", (8, 4), GPT2, Kind.EMBEDDING),
        ("shared.weight", (8, 4), None, Kind.EMBEDDING),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (8, 4), None, Kind.EMBEDDING),
        ("embed_out.weight", (8, 4), None, Kind.LINEAR),
        ("lm_head.weight", (8, 4), None, Kind.LINEAR),
        ("encoder.embedding_hidden_mapping_in.weight", (8, 4), None, Kind.LINEAR),
        ("transformer.h.0.attn.c_attn.weight", (4, 12), GPT2, Kind.TRANSPOSED),
        ("transformer.h.0.attn.c_attn.weight", (12, 4), {"model_type": "gpt_bigcode"}, Kind.LINEAR),
        ("vision.patch_embedding.weight", (8, 3, 2, 2), None, Kind.LINEAR),
        ("mixer.conv1d.weight", (8, 1, 4), None, Kind.WHOLE),
        ("model.norm.weight", (8,), None, Kind.WHOLE),
        ("model.layers.0.mlp.up_proj.bias", (8,), None, Kind.WHOLE),
        ("model.layers.0.mlp.gate.weight", (8, 4), None, Kind.WHOLE),
        ("model.layers.0.mlp.experts.gate_up_proj", (2, 8, 4), None, Kind.WHOLE),
        ("weight", (8, 4), None, Kind.WHOLE),
        ("a.weight", (0, 4), None, Kind.WHOLE),
    ],
)
def test_kinds(name: str, shape: tuple[int, ...], config: dict[str, Any] | None, expected: Kind) -> None:
    """Linear, transposed, embedding, or kept whole: by name, shape and model type."""
    assert expected is kind_of(name, shape, config)


def test_heads() -> None:
    """A head stands outside the layers: inside, ``output`` is something else."""
    assert is_head("lm_head.weight")
    assert is_head("language_model.lm_head.weight")
    assert not is_head("encoder.layer.0.output.weight")
    assert not is_head("lm_head.bias")


@pytest.mark.parametrize(
    ("config", "said", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, None, True),
        ({"architectures": ["LlamaForCausalLM"]}, False, False),
        ({"architectures": ["BertModel"]}, None, False),
        ({"architectures": ["BertModel"]}, True, True),
        ({"architectures": "no list"}, None, False),
        (None, None, False),
    ],
)
def test_ties(config: dict[str, Any] | None, said: bool | None, expected: bool) -> None:
    """What a configuration says counts; else an architecture with a head, none being stored, ties it."""
    assert expected is ties_head(config, said)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("q_proj", True),
        ("model.layers.0.*", True),
        ("*.self_attn.q_proj", True),
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("proj", False),
        ("layers", False),
        ("model.layers.1.*", False),
    ],
)
def test_patterns(pattern: str, expected: bool) -> None:
    """A pattern fits a whole name: the tensor's, its module's, or the last part of that."""
    assert expected is matches((pattern,), "model.layers.0.self_attn.q_proj.weight")

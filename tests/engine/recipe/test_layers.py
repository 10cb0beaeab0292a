"""Layers from tensors' names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.recipe.layers import comes_after_layers, find_stacks, layer_fraction, parse_layer

CASES = [
    ("model.layers.3.mlp.up_proj.weight", ("model.layers.", 3)),
    ("layers.12.attn.weight", ("layers.", 12)),
    ("transformer.h.0.ln_1.bias", ("transformer.h.", 0)),
    ("h.7.attn.c_attn.weight", ("h.", 7)),
    ("encoder.layer.11.output.dense.weight", ("encoder.layer.", 11)),
    ("decoder.block.2.layer.1.EncDecAttention.q.weight", ("decoder.block.", 2)),
    ("model.layers.5.mlp.experts.63.w1.weight", ("model.layers.", 5)),
    ("model.layers.5.block_sparse_moe.experts.3.w1.weight", ("model.layers.", 5)),
    ("visual.blocks.31.norm1.weight", ("visual.blocks.", 31)),
    ("visual.transformer.resblocks.4.mlp.c_fc.weight", ("visual.transformer.resblocks.", 4)),
    ("gpt_neox.layers.9", ("gpt_neox.layers.", 9)),
    ("blk.experts.2.weight", None),
    ("experts.7.w1", None),
    ("visual.merger.mlp.0.weight", None),
    ("model.norm.weight", None),
    ("layer1.0.conv.weight", None),
    ("layers.007.weight", None),
    ("layers.x.weight", None),
    ("layers.9999999999.weight", None),
    ("layers.١.weight", None),  # noqa: RUF001  # a digit, but none that names are numbered with
    ("", None),
]


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_parse_layer(name: str, expected: tuple[str, int] | None) -> None:
    """The number after the first stack-like name is the layer; experts' and other numbers are not."""
    layer = parse_layer(name)
    assert expected == (None if layer is None else (layer.stack, layer.number))


@given(st.from_regex(r"([a-z]{1,5}\.){0,2}(layers|h|block)\.[0-9]{1,3}(\.[a-z0-9]{1,5}){0,3}", fullmatch=True))
def test_names_are_put_together_again(name: str) -> None:
    """A name taken apart and put together is the same name, and any other layer's name is taken apart likewise."""
    layer = parse_layer(name)
    if layer is not None:
        assert name == layer.at(layer.number)
        assert layer._replace(number=41) == parse_layer(layer.at(41))


@given(st.text())
def test_any_text_is_a_name(name: str) -> None:
    """No name whatever fails."""
    parse_layer(name)
    comes_after_layers(name)


def test_stacks() -> None:
    """Stacks are counted apart, and tensors outside them keep the file's order."""
    stacks = find_stacks(["z", "enc.layers.0.w", "enc.layers.1.w", "dec.layers.0.w", "a"])
    assert {"enc.layers.": 2, "dec.layers.": 1} == stacks.lengths
    assert ("z", "a") == stacks.loose
    assert 2 == stacks.longest
    assert ["enc.layers.0.w", "dec.layers.0.w"] == [layer.at(0) for layer in stacks.by_layer()[0]]
    assert 0 == find_stacks(["a"]).longest


@pytest.mark.parametrize(("number", "count", "expected"), [(0, 5, 0.0), (1, 5, 0.25), (4, 5, 1.0), (0, 1, 1.0)])
def test_layer_fraction(number: int, count: int, expected: float) -> None:
    """The first layer is at 0 and the last at 1; mergekit puts an only layer at 1."""
    assert expected == layer_fraction(number, count)


BEFORE = """
model.embed_tokens.weight transformer.wte.weight wpe.weight backbone.embeddings.weight gpt_neox.embed_in.weight
bert.embeddings.LayerNorm.weight embeddings.position_ids model.embedding_norm.weight shared.weight
transformer.word_embeddings.weight model.tok_embeddings.weight vision_tower.ln_pre.weight vision_model.class_embedding
transformer.rotary_pos_emb.inv_freq model.encoder.conv1.weight multi_modal_projector.linear_1.weight something_else
"""
AFTER = """
model.norm.weight transformer.ln_f.bias backbone.norm_f.weight model.final_layernorm.weight lm_head.weight lm_head.bias
embed_out.weight gpt_neox.final_layer_norm.weight score.weight classifier.out_proj.weight pre_classifier.weight
bert.pooler.dense.weight cls.predictions.decoder.weight output.weight transformer.output_layer.weight
vocab_projector.weight vocab_layer_norm.bias lm_head.layer_norm.weight model.encoder.layer_norm.weight
"""


@pytest.mark.parametrize("name", BEFORE.split())
def test_before_the_layers(name: str) -> None:
    """These belong to the first slice in mergekit's descriptions of architectures."""
    assert not comes_after_layers(name)


@pytest.mark.parametrize("name", AFTER.split())
def test_after_the_layers(name: str) -> None:
    """These belong to the last slice there."""
    assert comes_after_layers(name)

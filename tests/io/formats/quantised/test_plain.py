"""Plain weights and buffers: untouched whatever they are called, and whatever their configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.io.opening import read_checkpoint
from tests.naive_dequantise import FP8, Stored, write_raw, zeros

WELCOME: dict[str, Stored] = {
    "embeddings.position_ids": zeros("I64", 1, 16),
    "embeddings.token_type_ids": zeros("I32", 1, 16),
    "embeddings.scale": zeros("F32", 1),
    "attn.bias": zeros("U8", 1, 1, 8, 8),
    "attn.masked_bias": zeros("F32"),
    "attn.causal_mask": zeros("U8", 8, 8),
    "attn.mask": zeros("BOOL", 8, 8),
    "attn.scale": zeros("F32", 1),
    "attn.relative_position_index": zeros("I64", 16, 16),
    "attn.rel_pos_index": zeros("I32", 16, 16),
    "attn.logit_scale": zeros("F32", 4, 1, 1),
    "norm.scale": zeros("BF16", 8),
    "norm.gamma": zeros("F32", 8),
    "layer.lambda1": zeros("F32", 8),
    "layer.lambda_q1": zeros("F32", 8),
    "quantizer.codes": zeros("F32", 4, 4),
    "quantizer.codebook": zeros("F32", 4, 4),
    "other.codes": zeros("I64", 4, 4),
    "other.scales": zeros("F32", 4),
    "bn.num_batches_tracked": zeros("I64"),
    "mixer.B": zeros("F32", 4, 4),
    "mixer.s": zeros("F32", 4),
    "mixer.zeros": zeros("F32", 4),
    "mixer.tables": zeros("F32", 4, 4),
    "mixer.su": zeros("F32", 4),
    "router.tid2eid": zeros("I32", 16, 4),
    "router.weight": zeros("BF16", 4, 4),
    "a.weight": zeros("BF16", 4, 4),
    "a.weight_scale": zeros("F32", 4, 1),
    "a.scales": zeros("BF16", 4, 1),
    "a.scale_weight": zeros("F32"),
    "a.input_scale": zeros("F32"),
    "a.k_scale": zeros("F32"),
    "plain8.weight": zeros("F8_E4M3", 4, 4),
    "plain8.scale": zeros("F8_E4M3", 4),
    "plain8.logit_scale": zeros("F32"),
    "text_projection": zeros("F8_E4M3", 4, 4),
    "logit_scale": zeros("F32"),
    "hash.tables": zeros("I32", 64, 3),
    "hash.weight": zeros("BF16", 64, 3),
    "hash.bias": zeros("BF16", 64),
    "hash.temperature": zeros("F32"),
    "hash.state": zeros("U8", 5056),
    "ints.weight": zeros("I8", 6, 4),
    "ints.bias": zeros("F32", 6),
    "ints.running_mean": zeros("F32", 6),
    "indices": zeros("I32", 4, 4),
    "scale": zeros("F32", 4),
    "scales": zeros("F32", 4),
}


def test_plain_tensors_with_such_names_stay(tmp_path: Path) -> None:
    """Buffers, and plain tensors that happen to be called scale, gamma, lambda1 or codes, are what they are."""
    write_raw(tmp_path, WELCOME, {"quantization_config": None})
    checkpoint = read_checkpoint(tmp_path)
    assert set(WELCOME) == set(checkpoint.tensors)
    assert {name: each[0] for name, each in WELCOME.items()} == {
        name: info.dtype.name for name, info in checkpoint.tensors.items()
    }
    assert ((), False) == (checkpoint.notes, checkpoint.dequantised)


def test_plain_tensors_stay_beside_quantised_ones(tmp_path: Path) -> None:
    """The same tensors are untouched in a checkpoint of which a weight is quantised; scales of activations go."""
    plain = {name: each for name, each in WELCOME.items() if not each[0].startswith("F8")}
    quantised = {
        "q.weight": zeros("F8_E4M3", 4, 4),
        "q.weight_scale": zeros("F32", 4, 1),
        "q.input_scale": zeros("F32", 4),
        "scaled_fp8": zeros("F8_E4M3", 0),
    }
    write_raw(tmp_path, {**plain, **quantised}, {})
    checkpoint = read_checkpoint(tmp_path)
    activations = {"a.input_scale", "a.k_scale"}
    assert (set(plain) | {"q.weight"}) - activations == set(checkpoint.tensors)
    assert "4 scales of activations or caches are left out" in checkpoint.notes[-1]


def test_tensors_without_a_module_are_no_neighbours(tmp_path: Path) -> None:
    """A vector beside integers means nothing where no name of a module binds them."""
    write_raw(tmp_path, {"numbers": zeros("I32", 6, 4), "gains": zeros("F32", 6)})
    assert ["I32", "F32"] == [info.dtype.name for info in read_checkpoint(tmp_path).tensors.values()]


def test_counts_beside_numbers_of_their_shape(tmp_path: Path) -> None:
    """Counts and values that lie beside each other in a module, of one shape, are plain tensors of it."""
    write_raw(tmp_path, {"table.counts": zeros("I32", 16, 4), "table.values": zeros("F32", 16, 4)})
    assert ["I32", "F32"] == [info.dtype.name for info in read_checkpoint(tmp_path).tensors.values()]


LEFT_OVER: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, "quantization_config (bitsandbytes)"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config (gptq)"),
    "float8": (FP8, "quantization_config (fp8)"),
    "nested": ({"text_config": {"quantization_config": {}}}, "text_config.quantization_config (unknown method)"),
    "compression": ({"compression_config": {}}, "compression_config (unknown method)"),
    "MLX": ({"quantization": {"bits": 4, "group_size": 64}}, "quantization (unknown method)"),
}


@pytest.mark.parametrize("kind", LEFT_OVER)
def test_left_over_configurations(kind: str, tmp_path: Path) -> None:
    """Plain weights whose configuration still speaks of quantisation are read as they are, with a notice."""
    config, text = LEFT_OVER[kind]
    write_raw(tmp_path, {"l.weight": zeros("BF16", 4, 4), "l.position_ids": zeros("I64", 1, 4)}, config)
    checkpoint = read_checkpoint(tmp_path)
    assert ["BF16", "I64"] == [info.dtype.name for info in checkpoint.tensors.values()]
    (note,) = checkpoint.notes
    assert f"config.json has a {text}, but no tensor is quantised" in note

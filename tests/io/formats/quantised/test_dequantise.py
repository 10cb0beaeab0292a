"""Quantised checkpoints of every format: read as weights, or refused by name; and nothing else is touched."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError, UnsupportedError
from dovetail.io.opening import read_checkpoint
from tests.naive_dequantise import (
    FP8,
    MXFP4,
    exponents8,
    quantise8,
    stored,
    unpack4,
    values8,
    weights,
    write_raw,
    zeros,
)

RANDOM = np.random.default_rng(0)


def codes8(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 120, shape, np.uint8)


def values(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    """Read a dequantised tensor, and check that it says what it is."""
    info = checkpoint.tensors[name]
    assert ("F32", "BF16") == (info.dtype.name, info.output_dtype.name)
    return info.source.read(0, info.length).view(np.float32).reshape(info.shape)


def _float8(scale_shape: tuple[int, ...], block: tuple[int, ...], shape: tuple[int, ...] = (6, 8)) -> Any:
    """Make codes, scales and what they stand for."""
    codes, scales = codes8(*shape), RANDOM.random(scale_shape).astype(np.float32)
    full = scales.astype(np.float64).reshape(scale_shape or (1,) * len(shape))
    full = (
        full.reshape(full.shape + (1,) * (len(shape) - full.ndim)) if full.size > 1 else full.reshape((1,) * len(shape))
    )
    return codes, scales, weights(values8(codes), full, block)


NAMES: dict[str, tuple[str, str, str, dict[str, Any] | None]] = {
    "DeepSeek": ("l.weight", "l.weight_scale_inv", "l.weight", FP8),
    "DeepSeek without configuration": ("l.weight", "l.weight_scale_inv", "l.weight", None),
    "DeepSeek's inference": ("l.weight", "l.scale", "l.weight", None),
    "compressed-tensors": (
        *("l.weight", "l.weight_scale", "l.weight"),
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
    ),
    "compression_config": (
        *("l.weight", "l.weight_scale", "l.weight"),
        {"compression_config": {"quant_method": "compressed-tensors"}},
    ),
    "FBGEMM": ("l.weight", "l.weight_scale", "l.weight", {"quantization_config": {"quant_method": "fbgemm_fp8"}}),
    "fused experts": ("e.gate_up_proj", "e.gate_up_proj_scale_inv", "e.gate_up_proj", None),
    "ComfyUI": ("l.weight", "l.scale_weight", "l.weight", None),
    "torchao": (
        *("l._weight_qdata", "l._weight_scale", "l.weight"),
        {"quantization_config": {"quant_method": "torchao"}},
    ),
    "vision": ("v.weight", "v.weight_scale", "v.weight", {"vision_config": FP8}),
    "deep": ("v.weight", "v.weight_scale", "v.weight", {"thinker_config": {"text_config": FP8}}),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(
    ("scale_shape", "block"),
    [
        ((), (6, 8)),
        ((1,), (6, 8)),
        ((1, 1), (6, 8)),
        ((6,), (1, 8)),
        ((6, 1), (1, 8)),
        ((1, 8), (6, 1)),
        ((2, 2), (3, 4)),
    ],
    ids=["scalar", "one", "1 x 1", "rows", "rows x 1", "columns", "blocks"],
)
def test_float8_of_every_style(kind: str, scale_shape: tuple[int, ...], block: tuple[int, ...], tmp_path: Path) -> None:
    """Names of every style, with a scale for the tensor, each row, column or block, give the named weight."""
    codes_name, scale_name, name, config = NAMES[kind]
    codes, scales, expected = _float8(scale_shape, block)
    tensors = {codes_name: stored(codes, "F8_E4M3"), scale_name: stored(scales), "norm.weight": zeros("BF16", 8)}
    write_raw(tmp_path, tensors, config)
    checkpoint = read_checkpoint(tmp_path)
    assert {name, "norm.weight"} == set(checkpoint.tensors)
    assert np.array_equal(expected, values(checkpoint, name))
    assert codes.nbytes + scales.nbytes == checkpoint.tensors[name].nbytes
    assert checkpoint.tensors == pickle.loads(pickle.dumps(checkpoint)).tensors


def test_model_optimizer_says_it_in_another_file(tmp_path: Path) -> None:
    """hf_quant_config.json is read where tensors are codes; scales of inputs and of the cache are left out."""
    codes, scales, expected = _float8((), (6, 8))
    tensors = {
        "l.weight": stored(codes, "F8_E4M3"),
        "l.weight_scale": stored(scales),
        "l.input_scale": zeros("F32"),
        "attn.k_proj.k_scale": zeros("F32"),
    }
    write_raw(tmp_path, tensors, {})
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    checkpoint = read_checkpoint(tmp_path)
    assert ["l.weight"] == list(checkpoint.tensors)
    assert np.array_equal(expected, values(checkpoint, "l.weight"))
    (tmp_path / "hf_quant_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("shape", "scale_shape", "block"),
    [
        ((2, 6, 8), (2, 1, 1), (1, 6, 8)),
        ((2, 6, 8), (2, 6, 1), (1, 1, 8)),
        ((2, 6, 8), (2, 2, 2), (1, 3, 4)),
        ((2, 6, 8), (1, 1, 1), (2, 6, 8)),
        ((2, 6, 8), (2, 1, 8), (1, 6, 1)),
        ((2, 6, 8), (1, 2, 2), (2, 3, 4)),
    ],
)
def test_stacked_experts(
    shape: tuple[int, ...], scale_shape: tuple[int, ...], block: tuple[int, ...], tmp_path: Path
) -> None:
    """Experts in one tensor have a scale each, or for each row, column or block of each, or share them."""
    codes, scales, expected = _float8(scale_shape, block, shape)
    name = "e.down_proj"
    write_raw(tmp_path, {name: stored(codes, "F8_E4M3"), f"{name}_scale_inv": stored(scales)})
    assert np.array_equal(expected, values(read_checkpoint(tmp_path), name))


def test_blocks_that_are_cut_and_scales_in_another_shard(tmp_path: Path) -> None:
    """Sides that are no multiples of 128 have shorter last blocks; scales may lie in any shard."""
    weight = RANDOM.standard_normal((200, 300)).astype(np.float32)
    codes, scales = quantise8(weight, (128, 128))
    tensors = {"l.weight": stored(codes, "F8_E4M3"), "l.weight_scale_inv": stored(scales), "n": zeros("BF16", 4)}
    write_raw(tmp_path, tensors, FP8, shards=[["l.weight"], ["l.weight_scale_inv", "n"]])
    actual = values(read_checkpoint(tmp_path), "l.weight")
    assert np.array_equal(weights(values8(codes), scales.astype(np.float64), (128, 128)), actual)
    assert np.abs(actual - weight).max() < 0.07 * np.abs(weight).max()


def _experts(*lead: int, groups: int = 2) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Make packed 4-bit codes, exponents, and what they stand for, rows as stored."""
    packed = RANDOM.integers(0, 256, (*lead, 16 * groups), np.uint8)
    exponents = RANDOM.integers(118, 130, (*lead, groups), np.uint8)
    block = (*(1 for _ in lead), 32)
    return packed, exponents, weights(unpack4(packed), exponents8(exponents), block)


def test_mxfp4_experts(tmp_path: Path) -> None:
    """Blocks and scales of gpt-oss give the parameter of the unquantised model, its last two dimensions exchanged."""
    packed, exponents, rows = _experts(3, 6)
    tensors = {
        "e.gate_up_proj_blocks": stored(packed.reshape(3, 6, 2, 16)),
        "e.gate_up_proj_scales": stored(exponents),
        "e.gate_up_proj_bias": zeros("BF16", 3, 6),
    }
    write_raw(tmp_path, tensors, MXFP4)
    checkpoint = read_checkpoint(tmp_path)
    assert {"e.gate_up_proj": (3, 64, 6), "e.gate_up_proj_bias": (3, 6)} == {
        name: info.shape for name, info in checkpoint.tensors.items()
    }
    assert np.array_equal(rows.transpose(0, 2, 1), values(checkpoint, "e.gate_up_proj"))
    assert "float4_e2m1fn with one scale for every 1 x 32 (1 of them)" in checkpoint.notes[0]


def test_mxfp4_of_the_original_release(tmp_path: Path) -> None:
    """The names of gpt-oss's own release keep rows and columns as they are stored."""
    packed, exponents, rows = _experts(3, 6)
    tensors = {"m.mlp1_weight.blocks": stored(packed.reshape(3, 6, 2, 16)), "m.mlp1_weight.scales": stored(exponents)}
    write_raw(tmp_path, tensors, MXFP4)
    assert np.array_equal(rows, values(read_checkpoint(tmp_path), "m.mlp1_weight"))


@pytest.mark.parametrize(
    ("codes_name", "codes_dtype", "scale_name", "scale_dtype", "config"),
    [
        ("x.w1.weight", "I8", "x.w1.scale", "F8_E8M0", None),
        ("x.w1.weight", "F4", "x.w1.scale", "F8_E8M0", None),
        ("x.w1.weight", "I8", "x.w1.weight_scale_inv", "F8_E8M0", FP8),
        (
            *("x.w1.weight_packed", "U8", "x.w1.weight_scale", "U8"),
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}},
        ),
    ],
    ids=["DeepSeek", "DeepSeek as F4", "DeepSeek in transformers", "compressed-tensors"],
)
def test_packed_float4(
    codes_name: str,
    codes_dtype: str,
    scale_name: str,
    scale_dtype: str,
    config: Mapping[str, Any] | None,
    tmp_path: Path,
) -> None:
    """Two 4-bit floats a byte, with a power of two for every 32, give a weight that is twice as wide."""
    packed, exponents, expected = _experts(6)
    tensors = {codes_name: stored(packed, codes_dtype), scale_name: stored(exponents, scale_dtype)}
    write_raw(tmp_path, tensors, config)
    checkpoint = read_checkpoint(tmp_path)
    assert (6, 64) == checkpoint.tensors["x.w1.weight"].shape
    assert np.array_equal(expected, values(checkpoint, "x.w1.weight"))


@pytest.mark.parametrize("scale_dtype", ["F8_E8M0", "U8"])
def test_microscaled_float8(scale_dtype: str, tmp_path: Path) -> None:
    """MXFP8: a power of two for every 32, stored as such or as bytes where the configuration tells of it."""
    codes, exponents = codes8(4, 64), RANDOM.integers(120, 130, (4, 2), np.uint8)
    tensors = {"l.weight": stored(codes, "F8_E4M3"), "l.weight_scale": stored(exponents, scale_dtype)}
    write_raw(tmp_path, tensors, {"quantization_config": {"quant_method": "mxfp8"}})
    expected = weights(values8(codes), exponents8(exponents), (1, 32))
    assert np.array_equal(expected, values(read_checkpoint(tmp_path), "l.weight"))
    (tmp_path / "config.json").write_text("{}")
    if scale_dtype == "U8":
        with pytest.raises(UnsupportedError, match=r"'l\.weight_scale' scales 'l\.weight' of float8"):
            read_checkpoint(tmp_path)


def test_the_header_no_longer_describes_the_tensors(tmp_path: Path) -> None:
    """Of a header's metadata only the format stays: what torchao keeps there is about tensors that are gone."""
    from safetensors.numpy import save_file

    save_file(
        {"l.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors", {"format": "pt", "l.weight": "{}"}
    )
    assert {"format": "pt", "l.weight": "{}"} == dict(read_checkpoint(tmp_path).metadata)
    import ml_dtypes

    codes = {"l.weight": np.ones((2, 2), ml_dtypes.float8_e4m3fn), "l.weight_scale": np.ones((2, 1), np.float32)}
    save_file(codes, tmp_path / "model.safetensors", {"format": "pt", "l.weight": "{}"})
    assert {"format": "pt"} == dict(read_checkpoint(tmp_path).metadata)

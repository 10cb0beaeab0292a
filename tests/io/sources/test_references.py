"""Dequantisation as the code that models are published with has it: transformers and compressed-tensors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dovetail.io.dtypes import DTYPES
from dovetail.io.formats.quantised.grids import find_grid
from dovetail.io.sources.scale_grid import ScaleGrid
from dovetail.io.sources.transposed import TransposedSource
from tests.io.sources.codes import E8M0, F4, read_all, same_bits, source_of


@pytest.mark.parametrize(("shape", "block"), [((256, 384), (128, 128)), ((64, 96), (64, 96)), ((3, 32, 64), (8, 16))])
@pytest.mark.parametrize("scale_name", ["float32", "float8_e8m0fnu"])
def test_float8_as_transformers_has_it(shape: tuple[int, ...], block: tuple[int, int], scale_name: str) -> None:
    """Random codes, every finite one among them, are dequantised as by transformers' own conversion."""
    torch = pytest.importorskip("torch")
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    random = np.random.default_rng(0)
    codes = random.integers(0, 256, shape, np.uint8)
    codes.reshape(-1)[:256] = np.arange(256)
    grid_shape = (*shape[:-2], shape[-2] // block[0], shape[-1] // block[1])
    scales = random.integers(110, 135, grid_shape, np.uint8)
    values = scales if scale_name != "float32" else random.random(grid_shape).astype(np.float32)
    theirs = Fp8Dequantize(None)._dequantize_one(
        torch.from_numpy(codes).view(torch.float8_e4m3fn),
        torch.from_numpy(values).view(getattr(torch, scale_name)),
        output_dtype=torch.float32,
    )
    dtype = DTYPES["F32"] if scale_name == "float32" else E8M0
    ours = read_all(source_of(codes, values, find_grid(shape, grid_shape, [block]), scale_dtype=dtype))
    assert same_bits(theirs.numpy().reshape(-1), ours)


def test_packed_float4_as_transformers_has_it() -> None:
    """Packed codes with a power of two for every 32, as DeepSeek stores experts, by transformers' own conversion."""
    torch = pytest.importorskip("torch")
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    packed = np.random.default_rng(0).integers(0, 256, (24, 48), np.uint8)
    packed.reshape(-1)[:256] = np.arange(256)
    exponents = np.random.default_rng(1).integers(0, 255, (24, 3), np.uint8)
    exponents.reshape(-1)[:4] = (0, 1, 254, 255)
    theirs = Fp8Dequantize(None)._dequantize_one(
        torch.from_numpy(packed).view(torch.int8),
        torch.from_numpy(exponents).view(torch.float8_e8m0fnu),
        output_dtype=torch.float32,
    )
    ours = read_all(source_of(packed, exponents, ScaleGrid(24, 96, 1, 32), F4, E8M0))
    assert same_bits(theirs.numpy().reshape(-1), ours)


@pytest.mark.parametrize("dtype_name", ["float32", "bfloat16"])
def test_mxfp4_as_transformers_has_it(dtype_name: str) -> None:
    """Blocks and scales of gpt-oss give what `convert_moe_packed_tensors` gives, rows and columns exchanged.

    All exponents but 255, which is NaN by the specification and infinity there.
    """
    torch = pytest.importorskip("torch")
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = np.random.default_rng(0).integers(0, 256, (3, 85, 2, 16), np.uint8)
    blocks.reshape(-1)[:256] = np.arange(256)
    scales = np.arange(3 * 85 * 2).reshape(3, 85, 2).astype(np.int64) % 255
    scales = scales.astype(np.uint8)
    theirs = convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=getattr(torch, dtype_name)
    )
    assert (3, 64, 85) == tuple(theirs.shape)
    ours = read_all(TransposedSource(source_of(blocks, scales, ScaleGrid(85, 64, 1, 32), F4, E8M0)))
    with np.errstate(over="ignore"):
        rounded = ours.astype(dtype_name if dtype_name == "float32" else ml_dtypes.bfloat16).astype(np.float32)
    assert same_bits(theirs.float().numpy().reshape(-1), rounded)


STRATEGIES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "tensor": ({"strategy": "tensor"}, (1,)),
    "channel": ({"strategy": "channel"}, (48, 1)),
    "block": ({"strategy": "block", "block_structure": [16, 32]}, (3, 3)),
    "group": ({"strategy": "group", "group_size": 32}, (48, 3)),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("scale_dtype", ["float32", "bfloat16"])
def test_float8_as_compressed_tensors_has_it(strategy: str, scale_dtype: str) -> None:
    """Every strategy of compressed-tensors: its dequantisation, in the dtype of the scales, gives our bits rounded."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    fields, scale_shape = STRATEGIES[strategy]
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (48, 96), np.uint8)
    codes.reshape(-1)[:256] = np.arange(256)
    scales = random.random(scale_shape).astype(np.float32 if scale_dtype == "float32" else ml_dtypes.bfloat16)
    theirs = dequantize(
        torch.from_numpy(codes).view(torch.float8_e4m3fn),
        torch.from_numpy(scales.astype(np.float32)).to(getattr(torch, scale_dtype)),
        args=QuantizationArgs(num_bits=8, type="float", **fields),
    )
    dtype = DTYPES["F32"] if scale_dtype == "float32" else DTYPES["BF16"]
    grid = find_grid(codes.shape, scale_shape, [(16, 32)] if strategy == "block" else [])
    ours = read_all(source_of(codes, scales, grid, scale_dtype=dtype))
    rounded = ours if scale_dtype == "float32" else ours.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert same_bits(theirs.float().numpy().reshape(-1), rounded)


def test_packed_float4_as_compressed_tensors_has_it() -> None:
    """Packed MXFP4 of compressed-tensors: nibbles in the same order, exponents with the same bias."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.mx_utils import decompress_mx_scale
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    packed = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    exponents = np.random.default_rng(0).integers(100, 150, (4, 16), np.uint8)
    values = unpack_fp4_from_uint8(torch.from_numpy(packed), 4, 512, dtype=torch.float32)
    theirs = values * decompress_mx_scale(torch.from_numpy(exponents)).float().repeat_interleave(32, dim=1)
    ours = read_all(source_of(packed, exponents, ScaleGrid(4, 512, 1, 32), F4, E8M0))
    assert same_bits(theirs.numpy().reshape(-1), ours)

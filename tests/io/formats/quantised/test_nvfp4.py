"""NVFP4: 4-bit floats with a float8 scale for every 16 of them, and a float32 for the whole tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.io.opening import read_checkpoint
from tests.io.sources.codes import same_bits
from tests.naive_dequantise import stored as raw
from tests.naive_dequantise import unpack4, values8, weights, write_raw

PACKED = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
"""Every byte of two codes, in each of 256 rows."""

SCALES = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 32, axis=1)
"""Every E4M3 code, for all groups of a row."""

STYLES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "compressed-tensors": (
        "l.weight_packed",
        "l.weight_global_scale",
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}},
    ),
    "Model Optimizer": ("l.weight", "l.weight_scale_2", {"quantization_config": {"quant_method": "modelopt"}}),
    "no configuration": ("l.weight", "l.weight_scale_2", {}),
}


def read(folder: Path, style: str, whole: float, shape: tuple[int, ...] = (1,)) -> NDArray[np.float32]:
    """Store all codes with all scales in one style, and read them; nothing but the weight may be left."""
    codes_name, whole_name, config = STYLES[style]
    tensors = {
        codes_name: raw(PACKED),
        "l.weight_scale": raw(SCALES, "F8_E4M3"),
        whole_name: raw(np.full(shape, whole, np.float32)),
        "l.input_global_scale": raw(np.ones(1, np.float32)),
    }
    info = read_checkpoint(write_raw(folder, tensors, config)).tensors["l.weight"]
    assert ((256, 512), "F32", "BF16") == (info.shape, info.dtype.name, info.output_dtype.name)
    assert ["l.weight"] == list(read_checkpoint(folder).tensors)
    assert "float4_e2m1fn with one scale for every 1 x 16, and one for all" == str(info.stored and info.stored.text)
    parts = [info.source.read(low, min(info.length, low + 4097)) for low in range(0, info.length, 4097)]
    return np.concatenate(parts).view(np.float32).reshape(info.shape)


WHOLE = (0.37, 1344.0, 3e-41, 3e38, 0.0)


@pytest.mark.parametrize(
    ("style", "whole"),
    [
        ("no configuration", 0.37),
        *((style, whole) for style in ("compressed-tensors", "Model Optimizer") for whole in WHOLE),
    ],
)
def test_every_code_with_every_scale(style: str, whole: float, tmp_path: Path) -> None:
    """A weight is its code times a scale of its group that was divided or multiplied by that of the tensor."""
    with np.errstate(all="ignore"):
        groups, factor = values8(SCALES).astype(np.float32), np.float32(whole)
        scales = groups / factor if style == "compressed-tensors" else groups * factor
    expected = weights(unpack4(PACKED), scales.astype(np.float64), (1, 16))
    assert same_bits(expected, read(tmp_path, style, whole, () if style == "Model Optimizer" else (1,)))


def test_as_compressed_tensors_has_it(tmp_path: Path) -> None:
    """Its own dequantisation gives the same bits in float32, and its decompression what these round to."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    packed, groups = torch.from_numpy(PACKED), torch.from_numpy(SCALES).view(torch.float8_e4m3fn)
    whole = torch.tensor([0.37])
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    values = unpack_fp4_from_uint8(packed, 256, 512, dtype=torch.float32)
    theirs = dequantize(values, groups.float(), args=args, global_scale=whole, dtype=torch.float32)
    ours = read(tmp_path, "compressed-tensors", 0.37)
    assert same_bits(theirs.numpy(), ours)
    rounded = NVFP4PackedCompressor.decompress(
        {"weight_packed": packed, "weight_scale": groups, "weight_global_scale": whole},
        QuantizationScheme(targets=["Linear"], weights=args),
    )["weight"]
    assert torch.bfloat16 == rounded.dtype
    assert same_bits(rounded.float().numpy(), torch.from_numpy(ours.copy()).bfloat16().float().numpy())

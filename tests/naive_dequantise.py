"""Quantised formats by their published definitions, element by element, and files of them.

Codes are taken apart bit by bit (OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0), and every
product is of two Python floats, rounded once to float32: nothing here is shared with the program.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAFETENSORS_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
}
SAFETENSORS_NAMES |= {"int32": "I32", "uint32": "U32", "int64": "I64", "bool": "BOOL"}

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
"""What DeepSeek-V3 has in its config.json."""

MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}
"""What gpt-oss has in its config.json."""

Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor as a safetensors file has it: dtype, shape, data."""


def float8(code: int, exponent_bits: int) -> float:
    """Give the value of a float8 code: E4M3 without infinities, or E5M2 with."""
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    sign = -1.0 if code & 128 else 1.0
    exponent, mantissa = (code & 127) >> mantissa_bits, code & (2**mantissa_bits - 1)
    if exponent_bits == 4 and code & 127 == 127:
        return math.nan
    if exponent_bits == 5 and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)


def float4(code: int) -> float:
    """Give the value of a 4-bit code: a sign, two bits of exponent with bias 1, one of mantissa."""
    sign, exponent, mantissa = (-1.0 if code & 8 else 1.0), (code >> 1) & 3, code & 1
    return sign * (mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def exponents8(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give the values of scales that are exponents alone: powers of two, and NaN for 255."""
    values = [math.nan if code == 255 else 2.0 ** (code - 127) for code in codes.reshape(-1).tolist()]
    return np.array(values).reshape(codes.shape)


def weights(values: NDArray[np.float64], scales: NDArray[np.float64], block: tuple[int, ...]) -> NDArray[np.float32]:
    """Multiply every value by the scale of its block, in Python floats, and round once.

    Parameters
    ----------
    values
        The values of the codes.
    scales
        As many dimensions as `values`.
    block
        Elements of a block along each dimension.

    """
    out = np.empty(values.shape, np.float32)
    with np.errstate(all="ignore"):
        for place in np.ndindex(values.shape):
            scale = scales[tuple(index // side for index, side in zip(place, block, strict=True))]
            out[place] = np.float32(float(values[place]) * float(scale))
    return out


def unpack4(packed: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give the values of 4-bit codes, two a byte along the last dimension, that of the lower bits first."""
    values = [[float4(byte & 15), float4(byte >> 4)] for byte in packed.reshape(-1).tolist()]
    return np.array(values).reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def values8(codes: NDArray[np.uint8], exponent_bits: int = 4) -> NDArray[np.float64]:
    """Give the values of float8 codes."""
    return np.array([float8(code, exponent_bits) for code in codes.reshape(-1).tolist()]).reshape(codes.shape)


def quantise8(weight: NDArray[Any], block: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise a matrix to E4M3 with a scale for every block; give the codes and the scales by which to multiply."""
    import ml_dtypes

    rows, columns = weight.shape
    scales = np.ones((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    codes = np.empty(weight.shape, np.uint8)
    for i, j in np.ndindex(scales.shape):
        place = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        part = weight[place].astype(np.float32)
        scales[i, j] = np.abs(part).max() / np.float32(448)
        codes[place] = (part / scales[i, j]).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    return codes, scales


def stored(array: NDArray[Any], dtype: str | None = None) -> Stored:
    """Describe an array as it is stored; bytes may be codes of another dtype."""
    shape = (*array.shape[:-1], 2 * array.shape[-1]) if dtype == "F4" else array.shape
    return dtype or SAFETENSORS_NAMES[array.dtype.name], shape, np.ascontiguousarray(array).tobytes()


_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8}


def zeros(dtype: str, *shape: int) -> Stored:
    """Give a tensor of nothing but zeros."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}.get(dtype, 8 * _SIZES.get(dtype, 1))
    return dtype, shape, bytes(count * bits // 8)


def write_raw(
    folder: Path,
    tensors: Mapping[str, Stored],
    config: Mapping[str, Any] | None = None,
    shards: Sequence[Sequence[str]] = (),
) -> Path:
    """Write a checkpoint byte by byte, as no library writes every dtype; in one file, or the shards named."""
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    parts = [tuple(tensors)] if not shards else [tuple(part) for part in shards]
    weight_map = {}
    for number, names in enumerate(parts, 1):
        file = "model.safetensors" if not shards else f"model-{number:05}-of-{len(parts):05}.safetensors"
        header, position = {}, 0
        for name in names:
            dtype, shape, data = tensors[name]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + len(data)]}
            position += len(data)
            weight_map[name] = file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(
            b"".join((struct.pack("<Q", len(text)), text, *(tensors[name][2] for name in names)))
        )
    if shards:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder

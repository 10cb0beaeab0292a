"""Dequantisation bit for bit: every code, every scale, any grid, any range; and as the models' own code has it."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, DType
from dovetail.io.quantised.grids import find_grid
from dovetail.io.sources.dequantised import DequantisedSource, ScaleGrid, TransposedSource
from tests import naive_dequantise as naive

E4M3, E5M2, F4 = DTYPES["F8_E4M3"], DTYPES["F8_E5M2"], QUANTISED_DTYPES["F4"]
E8M0 = QUANTISED_DTYPES["F8_E8M0"]


@dataclass(frozen=True)
class Held:
    """Elements in memory; checks the ranges that are asked for."""

    data: bytes
    itemsize: int = 1
    copies: bool = False

    @property
    def length(self) -> int:
        return len(self.data) // self.itemsize

    def _check(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop <= self.length

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        self._check(start, stop)
        return np.frombuffer(self.data, np.uint8)[start * self.itemsize : stop * self.itemsize]

    def prefetch(self, start: int, stop: int) -> None:
        self._check(start, stop)

    def populate(self, start: int, stop: int) -> bool:
        self._check(start, stop)
        return True

    def release(self, start: int, stop: int) -> None:
        self._check(start, stop)


def source_of(
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    grid: ScaleGrid,
    code_dtype: DType = E4M3,
    scale_dtype: DType = DTYPES["F32"],
) -> DequantisedSource:
    """Make a source of codes and scales in memory."""
    length = codes.size * (2 if code_dtype is F4 else 1)
    stored = Held(scales.tobytes(), scales.itemsize)
    return DequantisedSource(Held(codes.tobytes()), code_dtype, stored, scale_dtype, grid, length)


def read_all(source: DequantisedSource | TransposedSource) -> NDArray[np.float32]:
    return source.read(0, source.length).view(np.float32)


def same_bits(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> bool:
    """Whether values are the same bits; a NaN may be any NaN."""
    both = np.isnan(expected) & np.isnan(actual)
    return bool(np.all((expected.view(np.uint32) == actual.view(np.uint32)) | both))


@pytest.mark.parametrize(("dtype", "exponent_bits"), [(E4M3, 4), (E5M2, 5)])
def test_every_float8_code(dtype: DType, exponent_bits: int) -> None:
    """Each of 256 codes times scales that are ordinary, subnormal, huge, infinite and NaN."""
    scales = np.array([[1.0], [0.1], [1e-42], [3e38], [np.inf], [np.nan], [-2.5]], np.float32)
    codes = np.tile(np.arange(256, dtype=np.uint8), (len(scales), 1))
    expected = naive.weights(naive.values8(codes, exponent_bits), scales.astype(np.float64), (1, 256))
    actual = read_all(source_of(codes, scales, ScaleGrid(len(scales), 256, 1, 256), dtype)).reshape(codes.shape)
    assert same_bits(expected, actual)


def test_every_float4_code_with_every_exponent() -> None:
    """Each of 256 bytes of two codes with each of 256 exponents: 2^-127 to 2^127, and NaN for 255."""
    codes = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    exponents = np.arange(256, dtype=np.uint8).reshape(256, 1)
    expected = naive.weights(naive.unpack4(codes), naive.exponents8(exponents), (1, 512))
    actual = read_all(source_of(codes, exponents, ScaleGrid(256, 512, 1, 512), F4, E8M0)).reshape(256, 512)
    assert same_bits(expected, actual)
    assert np.isnan(actual[255]).all()
    assert np.float32(6 * 2.0**-127) == actual[0].max()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64", "F8_E8M0"])
def test_scales_of_every_dtype(name: str) -> None:
    """Scales are taken as the numbers that they are, whatever their dtype."""
    random = np.random.default_rng(1)
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
    kinds["F8_E8M0"] = ml_dtypes.float8_e8m0fnu
    scales = np.exp2(random.integers(-6, 6, (3, 2)) + 0.25 * random.random((3, 2))).astype(kinds[name])
    codes = random.integers(0, 120, (6, 8), np.uint8)
    numbers = scales.astype(np.float32).astype(np.float64)
    dtype = DTYPES.get(name) or QUANTISED_DTYPES[name]
    actual = read_all(source_of(codes, scales, ScaleGrid(6, 8, 2, 4), scale_dtype=dtype)).reshape(6, 8)
    assert same_bits(naive.weights(naive.values8(codes), numbers, (2, 4)), actual)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20))


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.integers(1, 10), st.integers(1, 21), st.booleans(), st.data())
def test_any_grid_and_any_range(
    shape: tuple[int, int, int], block_rows: int, block_columns: int, shared: bool, data: st.DataObject
) -> None:
    """Any range of stacked matrices, with blocks that do not divide their sides, has the bits of the whole."""
    stack, rows, columns = shape
    grid = ScaleGrid(rows, columns, block_rows, block_columns, shared)
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    codes = random.integers(0, 256, shape, np.uint8)
    scales = random.standard_normal((1 if shared else stack, grid.grid_rows, grid.grid_columns)).astype(np.float32)
    block = (stack if shared else 1, block_rows, block_columns)
    expected = naive.weights(naive.values8(codes), scales.astype(np.float64), block).reshape(-1)
    source = source_of(codes, scales, grid)
    start = data.draw(st.integers(0, codes.size))
    stop = data.draw(st.integers(start, codes.size))
    source.prefetch(start, stop)
    assert source.populate(start, stop)
    raw = source.read(start, stop)
    source.release(start, stop)
    assert not raw.flags.writeable
    assert same_bits(expected[start:stop], raw.view(np.float32))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.booleans(), st.data())
def test_any_range_of_float4(stack: int, rows: int, groups: int, transposed: bool, data: st.DataObject) -> None:
    """Ranges that begin or end within a byte have the bits of the whole, also where stored rows are columns."""
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    packed = random.integers(0, 256, (stack, rows, 16 * groups), np.uint8)
    exponents = random.integers(100, 140, (stack, rows, groups), np.uint8)
    expected = naive.weights(naive.unpack4(packed), naive.exponents8(exponents), (1, 1, 32))
    rows_source = source_of(packed, exponents, ScaleGrid(rows, 32 * groups, 1, 32), F4, E8M0)
    source = TransposedSource(rows_source) if transposed else rows_source
    flat = (expected.transpose(0, 2, 1) if transposed else expected).reshape(-1)
    start = data.draw(st.integers(0, flat.size))
    stop = data.draw(st.integers(start, flat.size))
    source.prefetch(start, stop)
    source.populate(start, stop)
    assert same_bits(flat[start:stop], source.read(start, stop).view(np.float32))
    source.release(start, stop)


def test_long_rows_and_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row is longer than a piece, or a range has many pieces, bits are those of one piece."""
    random = np.random.default_rng(3)
    codes = random.integers(0, 120, (37, 130), np.uint8)
    scales = random.random((5, 3)).astype(np.float32)
    whole = read_all(source_of(codes, scales, ScaleGrid(37, 130, 8, 50))).copy()
    packed = random.integers(0, 256, (2, 40, 32), np.uint8)
    exponents = random.integers(120, 130, (2, 40, 2), np.uint8)
    stored = source_of(packed, exponents, ScaleGrid(40, 64, 1, 32), F4, E8M0)
    transposed = read_all(TransposedSource(stored)).copy()
    for size in (7, 64, 300):
        monkeypatch.setattr("dovetail.io.sources.dequantised._PIECE_ELEMENTS", size)
        monkeypatch.setattr("dovetail.io.sources.dequantised._STRETCH_BYTES", size)
        assert same_bits(whole, read_all(source_of(codes, scales, ScaleGrid(37, 130, 8, 50))))
        assert same_bits(transposed, read_all(TransposedSource(stored)))


def test_ranges_outside_are_errors() -> None:
    """A range that is not within the tensor is an error, and no other tensor's elements."""
    inner = source_of(np.zeros((2, 16), np.uint8), np.zeros((2, 1), np.uint8), ScaleGrid(2, 32, 1, 32), F4, E8M0)
    for source in (inner, TransposedSource(inner)):
        for start, stop in ((-1, 2), (3, 2), (0, 65)):
            with pytest.raises(IndexError, match="of a tensor of 64"):
                source.read(start, stop)


@pytest.mark.parametrize("kind", ["blocks", "rows", "groups", "transposed", "one long row"])
def test_memory_of_a_read(kind: str) -> None:
    """A read takes no more than twice what it returns and the scratch that it tells of."""
    codes = np.zeros((2048, 1536), np.uint8)
    if kind == "blocks":
        source = source_of(codes, np.ones((16, 12), np.float32), ScaleGrid(2048, 1536, 128, 128))
    elif kind == "rows":
        source = source_of(codes, np.ones((2048, 1), np.float32), ScaleGrid(2048, 1536, 1, 1536))
    elif kind == "one long row":
        source = source_of(codes, np.ones(1, np.float32), ScaleGrid(1, codes.size, 1, codes.size, shared=True))
    else:
        scales = np.full((2048, 96), 127, np.uint8)
        source = source_of(codes, scales, ScaleGrid(2048, 3072, 1, 32), F4, E8M0)
    read = TransposedSource(source) if kind == "transposed" else source
    start, stop = 5000, 5000 + 2**20
    read.read(0, 4096)  # tables are made once
    tracemalloc.start()
    try:
        read.read(start, stop)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 2 * 4 * (stop - start) + read.scratch_bytes
    assert read.scratch_bytes <= 8 * 2**20


def test_sources_travel() -> None:
    """A source crosses to another process whole, and is read alike there."""
    inner = source_of(
        np.full((2, 16), 0x21, np.uint8), np.full((2, 1), 127, np.uint8), ScaleGrid(2, 32, 1, 32), F4, E8M0
    )
    for source in (inner, TransposedSource(inner)):
        copy = pickle.loads(pickle.dumps(source))
        assert source == copy
        assert same_bits(read_all(source), read_all(copy))
        assert (4, True, 64) == (copy.itemsize, copy.copies, copy.length)


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


def test_stored_files_are_read_alike(tmp_path: Path) -> None:
    """Memory-mapped codes and scales at odd places of a file give the bits of those in memory."""
    from dovetail.io.opening import read_checkpoint

    random = np.random.default_rng(0)
    codes, scales = random.integers(0, 120, (130, 200), np.uint8), random.random((2, 2)).astype(np.float32)
    naive.write_raw(
        tmp_path,
        {
            "odd": ("U8", (3,), b"abc"),
            "w.weight": naive.stored(codes, "F8_E4M3"),
            "w.weight_scale_inv": naive.stored(scales),
        },
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
    )
    source = read_checkpoint(tmp_path).tensors["w.weight"].source
    expected = read_all(source_of(codes, scales, ScaleGrid(130, 200, 128, 128)))
    assert math.prod(codes.shape) == source.length
    assert same_bits(expected[77:20_001], source.read(77, 20_001).view(np.float32))

"""Dequantisation bit for bit: every code, every scale, any grid, any range; and as the models' own code has it."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, DType
from dovetail.io.sources.scale_grid import ScaleGrid
from dovetail.io.sources.transposed import TransposedSource
from tests import naive_dequantise as naive
from tests.io.sources.codes import E4M3, E5M2, E8M0, F4, read_all, same_bits, source_of


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
        monkeypatch.setattr("dovetail.io.sources.dequantised.STEP_ELEMENTS", size)
        monkeypatch.setattr("dovetail.io.sources.transposed.STEP_ELEMENTS", size)
        monkeypatch.setattr("dovetail.io.sources.transposed._STRETCH_BYTES", size)
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
        assert same_bits(read_all(source), read_all(copy))
        assert (4, True, 64) == (copy.itemsize, copy.copies, copy.length)


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

"""Sources of codes and scales in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, DType
from dovetail.io.sources.dequantised import DequantisedSource
from dovetail.io.sources.scale_grid import ScaleGrid
from dovetail.io.sources.transposed import TransposedSource
from tests.io.held import HeldSource

E4M3, E5M2, F4 = DTYPES["F8_E4M3"], DTYPES["F8_E5M2"], QUANTISED_DTYPES["F4"]
E8M0 = QUANTISED_DTYPES["F8_E8M0"]


def source_of(
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    grid: ScaleGrid,
    code_dtype: DType = E4M3,
    scale_dtype: DType = DTYPES["F32"],
) -> DequantisedSource:
    """Make a source of codes and scales in memory."""
    length = codes.size * (2 if code_dtype is F4 else 1)
    stored = HeldSource(scales)
    return DequantisedSource(HeldSource(codes), code_dtype, stored, scale_dtype, grid, length)


def read_all(source: DequantisedSource | TransposedSource) -> NDArray[np.float32]:
    return source.read(0, source.length).view(np.float32)


def same_bits(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> bool:
    """Whether values are the same bits; a NaN may be any NaN."""
    both = np.isnan(expected) & np.isnan(actual)
    return bool(np.all((expected.view(np.uint32) == actual.view(np.uint32)) | both))

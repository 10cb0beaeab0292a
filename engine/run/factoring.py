"""Factoring the difference of two tensors in bounded memory: passes over chunks of rows, thin matrices between them.

The grid of chunks is fixed by the tensor's shape alone, and sums are taken in its order, so that neither the memory
limit nor an interruption changes a bit of the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods import low_rank
from dovetail.engine.planning.builder import requested_dtype
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.errors import NonFiniteError
from dovetail.io.source import read_scratch_bytes
from dovetail.io.sources.floats import decode_into

CHUNK_ELEMENTS = 1 << 20
"""Elements of a chunk, unless a row has more."""

_THIN_MATRICES = 6
"""Matrices of the size of the basis that exist at once while a new basis is made: its columns, two copies in LAPACK,
the result, the old basis, and the vectors found."""

_PASS_BYTES = 8 + 8 + 4 + 4
"""Bytes for each element of a chunk: the difference, the product that is compared with it, both decoded."""

COMPARING_BYTES = CHUNK_ELEMENTS * 56 + 4 * PAGE_SLACK_BYTES
"""Most memory that `equal` takes: windows of at most 8 bytes an element and copies, both decoded, the difference."""

Progress = Callable[[int], None]
"""Receives the bytes read since the last call."""


@dataclass(frozen=True, slots=True)
class Factors:
    """What became of one matrix. Its change is about ``scale * (left @ right)``."""

    left: NDArray[np.generic]
    """Rows times rank, as stored."""
    right: NDArray[np.generic]
    """Rank times columns, as stored."""
    scale: float
    """The factor that an adapter's configuration gives their product."""
    energy: float
    """Sum of the squares of the change."""
    residual: float
    """Sum of the squares of what the product, of the factors as stored, leaves of it."""

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return int(self.right.shape[0])


def factor_dtype(pair: TensorPair, options: ExtractionOptions) -> DType:
    """Give the dtype of a pair's factors: the one asked for, else the base model's own if it has 16 or 32 bits."""
    assert pair.base is not None
    own = pair.base.output_dtype
    return requested_dtype(options.dtype) or (own if own.itemsize in (2, 4) else DTYPES["BF16"])


def factoring_bytes(pair: TensorPair, options: ExtractionOptions) -> int:
    """Most memory that factoring a pair takes beyond what the process holds before."""
    assert pair.base is not None
    width = low_rank.basis_width(pair.rows, pair.columns, options.most_rank)
    thin = _THIN_MATRICES * pair.columns * width * 8 + 4 * width * width * 8
    left = 2 * pair.rows * min(width, options.most_rank) * 8
    elements = _rows_of_chunk(pair) * pair.columns
    windows = sum(
        elements * info.dtype.itemsize * (2 if info.source.copies else 1) + read_scratch_bytes(info.source)
        for info in (pair.tuned, pair.base)
    )
    return thin + left + elements * _PASS_BYTES + windows + 4 * PAGE_SLACK_BYTES


def factor(pair: TensorPair, names: tuple[str, str], options: ExtractionOptions, progress: Progress) -> Factors | None:
    """Factor the difference of a pair; None if there is none.

    Parameters
    ----------
    pair
        The tensors, of one shape.
    names
        What the user calls the two models, for error messages.
    options
        Rank, dtype, iterations and seed.
    progress
        Told of bytes read.

    Raises
    ------
    NonFiniteError
        One of them holds NaN or infinity.

    """
    width = low_rank.basis_width(pair.rows, pair.columns, options.most_rank)
    basis = low_rank.first_basis(pair.name, pair.columns, width, options.seed)
    # A basis of the whole space is its own image: one step is exact.
    steps = 1 if width == pair.columns else options.iterations + 1
    energy = 0.0
    for step in range(steps):
        image = np.zeros_like(basis)
        for _, chunk in _differences(pair, progress):
            if step == 0:
                energy += float(np.vdot(chunk, chunk))
            if chunk.any():
                low_rank.fold(image, chunk, basis)
        if energy == 0.0:
            return None
        if not np.isfinite(energy):
            _check_finite(pair, names)
        if step < steps - 1:
            del basis
            basis = low_rank.orthonormal(image)
    found = low_rank.spectrum(basis, image)
    del basis, image
    rank = low_rank.needed_rank(found.values, energy, options.most_rank, options.energy)
    return _store(pair, found, rank, energy, options, progress)


def _store(
    pair: TensorPair,
    found: low_rank.Spectrum,
    rank: int,
    energy: float,
    options: ExtractionOptions,
    progress: Progress,
) -> Factors:
    """Round the right factor, find the left one that goes best with it, and measure what both leave."""
    dtype = to_numpy(factor_dtype(pair, options))
    scale = (options.alpha or options.most_rank) / rank
    right = low_rank.right_factor(found, rank).astype(dtype)
    stored = right.astype(np.float64)
    inverse = low_rank.right_inverse(stored) / scale
    stored *= scale
    left = np.empty((pair.rows, rank), dtype)
    residual = 0.0
    for first, chunk in _differences(pair, progress):
        part = (chunk @ inverse).astype(dtype)
        left[first : first + len(part)] = part
        chunk -= part.astype(np.float64) @ stored
        residual += float(np.vdot(chunk, chunk))
    if not np.isfinite(residual):
        raise RecipeError(
            f"factors of {pair.name} are too large for {dtype.name}", "a dtype that holds them", "pass --dtype float32"
        )
    return Factors(left, right, scale, energy, residual)


def passes(pair: TensorPair, options: ExtractionOptions) -> int:
    """Give the number of times that factoring a changed pair reads both tensors."""
    width = low_rank.basis_width(pair.rows, pair.columns, options.most_rank)
    return 2 if width == pair.columns else options.iterations + 2


def equal(one: TensorInfo, other: TensorInfo, progress: Progress) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their dtypes."""
    floats = one.dtype.mergeable and other.dtype.mergeable
    if not floats and one.dtype != other.dtype:
        return False
    for start in range(0, one.length, CHUNK_ELEMENTS):
        stop = min(one.length, start + CHUNK_ELEMENTS)
        _populate((one, other), start, stop)
        if floats:
            same = not _difference(one, other, start, stop).any()
        else:
            same = np.array_equal(one.source.read(start, stop), other.source.read(start, stop))
        _release((one, other), start, stop)
        progress((stop - start) * (one.dtype.itemsize + other.dtype.itemsize))
        if not same:
            return False
    return True


def _rows_of_chunk(pair: TensorPair) -> int:
    return max(1, min(pair.rows, CHUNK_ELEMENTS // pair.columns))


def _differences(pair: TensorPair, progress: Progress) -> Iterator[tuple[int, low_rank.Matrix]]:
    """Give the first row and the difference of every chunk of rows, in order, each in an array of its own."""
    assert pair.base is not None
    both, columns, step = (pair.tuned, pair.base), pair.columns, _rows_of_chunk(pair)
    for first in range(0, pair.rows, step):
        start, stop = first * columns, min(pair.rows, first + step) * columns
        for info in both:
            info.source.prefetch(stop, min(info.length, stop + step * columns))
        _populate(both, start, stop)
        chunk = _difference(*both, start, stop)
        _release(both, start, stop)
        yield first, chunk.reshape(-1, columns)
        progress((stop - start) * sum(info.dtype.itemsize for info in both))


def _difference(one: TensorInfo, other: TensorInfo, start: int, stop: int) -> NDArray[np.float64]:
    """Subtract elements ``start:stop`` exactly, but for the rounding of float64."""
    found = _decoded(one, start, stop).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite elements are found by the sum of squares
        found -= _decoded(other, start, stop)
    return found


def _decoded(info: TensorInfo, start: int, stop: int) -> NDArray[np.float32] | NDArray[np.float64]:
    raw = info.source.read(start, stop)
    if info.dtype.name == "F64":
        return raw.view(np.float64)
    values = np.empty(stop - start, np.float32)
    decode_into(raw, info.dtype, values)
    return values


def _populate(infos: Sequence[TensorInfo], start: int, stop: int) -> None:
    """Bring elements into memory: touching pages that cannot be read would kill the process."""
    for info in infos:
        info.source.populate(start, stop)


def _release(infos: Sequence[TensorInfo], start: int, stop: int) -> None:
    for info in infos:
        info.source.release(start, stop)


def _check_finite(pair: TensorPair, names: tuple[str, str]) -> None:
    """Say where a pair's first NaN or infinity is."""
    assert pair.base is not None
    for name, info in zip(names, (pair.tuned, pair.base), strict=True):
        for start in range(0, info.length, CHUNK_ELEMENTS):
            stop = min(info.length, start + CHUNK_ELEMENTS)
            _populate((info,), start, stop)
            values = _decoded(info, start, stop)
            found = np.flatnonzero(~np.isfinite(values))
            if found.size:
                raise NonFiniteError(
                    f"{name}: tensor {info.name!r} holds {values[found[0]]} at element {start + int(found[0])}",
                    "finite numbers",
                    f"repair the checkpoint, or leave the tensor out with --exclude '{pair.name}'",
                )
            _release((info,), start, stop)

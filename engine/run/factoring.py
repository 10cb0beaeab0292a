"""Factoring the difference of two tensors in bounded memory: passes over chunks of rows, thin matrices between them.

The grid of chunks is fixed by the tensor's shape alone, and sums are taken in its order, so that neither the memory
limit nor an interruption changes a bit of the factors.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods import low_rank
from dovetail.engine.methods.blas import one_thread
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.engine.planning.opened import requested_dtype
from dovetail.engine.run.differences import Progress, check_finite, read_chunk, rows_of_chunk
from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.files.threads import Threads, result_of

_THIN_MATRICES = 6
"""Matrices of the size of the basis that exist at once while a new basis is made: its columns, two copies in LAPACK,
the result, the old basis, and the vectors found."""

_PASS_BYTES = 8 + 8 + 4 + 4
"""Bytes for each element of a chunk: the difference, the product that is compared with it, both decoded."""

_Found = TypeVar("_Found")


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


def no_change(pair: TensorPair, options: ExtractionOptions) -> Factors:
    """Give factors of nothing, for an expert that did not change beside others that did."""
    rank, dtype = options.most_rank, to_numpy(factor_dtype(pair, options))
    scale = (options.alpha or rank) / rank
    return Factors(np.zeros((pair.rows, rank), dtype), np.zeros((rank, pair.columns), dtype), scale, 0.0, 0.0)


def factor_dtype(pair: TensorPair, options: ExtractionOptions) -> DType:
    """Give the dtype of a pair's factors: the one asked for, else the base model's, of 16 or 32 bits."""
    assert pair.base is not None
    own = pair.base.output_dtype
    return requested_dtype(options.dtype) or {1: DTYPES["BF16"], 8: DTYPES["F32"]}.get(own.itemsize, own)


def _rounded(pair: TensorPair, values: low_rank.Matrix, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round a factor, or a part of one, to the dtype that it is stored in."""
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        raise RecipeError(
            f"factors of {pair.name} are too large for {dtype.name}", "a dtype that holds them", "pass --dtype float32"
        )
    return stored


def thin_bytes(pair: TensorPair, options: ExtractionOptions) -> int:
    """Most memory that a pair's thin matrices take, however many workers there are."""
    width = _width(pair, options)
    padded = 2 * options.most_rank * (pair.rows + pair.columns) * 4 if pair.packed else 0
    return padded + _THIN_MATRICES * pair.columns * width * 8 + 4 * width * width * 8 + 2 * pair.rows * width * 8


def task_bytes(pair: TensorPair, options: ExtractionOptions) -> int:
    """Most memory that one worker takes: a chunk, and what the chunk contributes."""
    assert pair.base is not None
    elements = rows_of_chunk(pair) * pair.columns
    windows = sum(
        elements * info.dtype.itemsize * (2 if info.source.copies else 1) + info.source.scratch_bytes
        for info in (pair.tuned, pair.base)
    )
    # A result waits for those before it while its worker has begun the next.
    return elements * _PASS_BYTES + windows + 2 * PAGE_SLACK_BYTES + 2 * pair.columns * _width(pair, options) * 8


def warm_up() -> None:
    """Load the linear algebra library and let it make its buffers, so that they count as the program's own memory."""
    sample = np.ones((256, 64))
    with one_thread():
        np.linalg.qr(sample)
        np.linalg.eigh(sample.T @ sample)


class Factoring:
    """Factors pairs one after another, the chunks of each on several threads.

    The linear algebra library itself is held to one thread while this is open, so that its results do not depend on the
    number of cores.

    Parameters
    ----------
    names
        What the user calls the two models, for error messages.
    options
        Rank, dtype, iterations and seed.
    workers
        Chunks that are worked on at once.
    progress
        Told of bytes read, on the calling thread.

    """

    def __init__(self, names: tuple[str, str], options: ExtractionOptions, workers: int, progress: Progress) -> None:
        self._names, self._options, self._progress = names, options, progress
        self._workers = workers
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(one_thread())
        self._pool = self._closing.enter_context(Threads(workers, thread_name_prefix="dovetail-factor"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def factor(self, pair: TensorPair) -> Factors | None:
        """Factor the difference of a pair of tensors of one shape; None if there is none.

        Raises
        ------
        NonFiniteError
            One of them holds NaN or infinity.

        """
        options, width = self._options, _width(pair, self._options)
        basis = low_rank.first_basis(pair.name, pair.columns, width, options.seed)
        energy, steps = 0.0, passes(pair, options) - 1
        for step in range(steps):
            image, energy = self._image(pair, basis)
            if energy == 0.0:
                return None
            if not np.isfinite(energy):
                check_finite(pair, self._names)
            if step < steps - 1:
                del basis
                basis = low_rank.orthonormal(image)
        found = low_rank.spectrum(basis, image)
        del basis, image
        return self._factors(pair, found, energy)

    def _image(self, pair: TensorPair, basis: low_rank.Matrix) -> tuple[low_rank.Matrix, float]:
        """Give (D'D) Q, and the energy of D."""

        def contribution(first: int) -> tuple[low_rank.Matrix | None, float]:
            chunk = read_chunk(pair, first)
            energy = float(np.vdot(chunk, chunk))
            return low_rank.image(chunk, basis) if energy else None, energy

        total, energy = np.zeros_like(basis), 0.0
        for _, (part, square) in self._in_order(pair, contribution):
            energy += square
            if part is not None:
                total += part
        return total, energy

    def _factors(self, pair: TensorPair, found: low_rank.Spectrum, energy: float) -> Factors:
        """Round the right factor, find the left one that goes best with it, and measure what both leave."""
        options, dtype = self._options, to_numpy(factor_dtype(pair, self._options))
        rank = low_rank.needed_rank(found.values, energy, options.most_rank, options.energy)
        stored_rank = options.most_rank if pair.packed else rank
        scale = (options.alpha or options.most_rank) / stored_rank
        right = _rounded(pair, low_rank.right_factor(found, rank), dtype)
        stored = right.astype(np.float64)
        inverse = low_rank.right_inverse(stored) / scale
        stored *= scale

        def rows(first: int) -> tuple[NDArray[np.generic], float]:
            chunk = read_chunk(pair, first)
            part = _rounded(pair, chunk @ inverse, dtype)
            chunk -= part.astype(np.float64) @ stored
            return part, float(np.vdot(chunk, chunk))

        left, residual = np.empty((pair.rows, rank), dtype), 0.0
        for first, (part, square) in self._in_order(pair, rows):
            left[first : first + len(part)] = part
            residual += square
        if rank < stored_rank:
            added = (0, stored_rank - rank)
            left, right = np.pad(left, ((0, 0), added)), np.pad(right, (added, (0, 0)))
        return Factors(left, right, scale, energy, residual)

    def _in_order(self, pair: TensorPair, work: Callable[[int], _Found]) -> Iterator[tuple[int, _Found]]:
        """Run a function for the first row of every chunk, and give the results in order."""
        assert pair.base is not None
        step, row_bytes = rows_of_chunk(pair), pair.columns * (pair.tuned.dtype.itemsize + pair.base.dtype.itemsize)
        under_way: deque[tuple[int, Future[_Found]]] = deque()
        firsts = iter(range(0, pair.rows, step))
        try:
            while True:
                while len(under_way) < self._workers and (first := next(firsts, None)) is not None:
                    under_way.append((first, self._pool.submit(copy_context().run, work, first)))
                if not under_way:
                    return
                first, future = under_way.popleft()
                yield first, result_of(future)
                self._progress(min(step, pair.rows - first) * row_bytes)
        finally:
            for _, future in under_way:
                future.cancel()
            wait([future for _, future in under_way])


def passes(pair: TensorPair, options: ExtractionOptions) -> int:
    """Give the number of times that factoring a changed pair reads both tensors."""
    # A basis of the whole space is its own image: one step is exact.
    return 2 if _width(pair, options) == pair.columns else options.iterations + 2


def _width(pair: TensorPair, options: ExtractionOptions) -> int:
    return low_rank.basis_width(pair.rows, pair.columns, options.most_rank)

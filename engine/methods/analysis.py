"""What task vectors are like. No recipe can name it; `dovetail analyze` uses it as merges use their methods.

One sweep counts and adds up everything but the energy of the strongest changes, which it leaves open where a cut goes
through uneven elements of one bin (see `dovetail.engine.kernels.upper_bits`). A second sweep settles what is open.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any, Final

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.analysis import PAIR_COUNTS, analyse_tile, load_base, load_finite, load_task_vector
from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.kernels.exclusive import TILE, tile_elements
from dovetail.engine.kernels.selection import SLACK, TABLE_ELEMENTS, plane_elements, whole_span
from dovetail.engine.kernels.upper_bits import BINS, LOWER_BINS, count_lower
from dovetail.engine.methods.decoding import read_only
from dovetail.engine.methods.measured import SHARES, Ints, Lower, Measured, OpenCut, Sums, measured, no_sums, settle
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, Problem

DEFAULT_BLOCK: Final = (64, 256)
"""n and m of n:m pruning, unless others are asked for."""

_HISTOGRAM_BYTES: Final = 16 * BINS
"""Bytes of a model's histograms in a partial result."""


@dataclass(frozen=True, slots=True)
class Analysing(EveryChunk):
    """Program of one tensor: reduce passes alone. The second is needed only where the first leaves something open."""

    length: int
    """Elements of the tensor."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    block: tuple[int, int]
    """n and m of n:m pruning."""

    @property
    def reduce_passes(self) -> int:
        """Two; the first may settle everything."""
        return 2

    @property
    def _models(self) -> int:
        return len(self.codes) - 1

    @property
    def _tile(self) -> int:
        """Elements that are looked at at a time."""
        least = tile_elements((self.block[1],)) or TILE
        return 2 * least if least <= TILE else least  # few calls, and all task vectors of a tile in the L2 cache

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need only the chunk itself: chunks begin where blocks do."""
        return start, stop

    def partial_bytes(self, elements: int) -> int:
        """Bytes of the histograms of a chunk: of the second sweep, those of every cut of every model at most."""
        return self._models * max(_HISTOGRAM_BYTES, 4 * LOWER_BINS * len(SHARES)) + self._small_bytes

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Bytes of the same with counts of 64 bits."""
        return self._models * max(24 * BINS, 8 * LOWER_BINS * len(SHARES)) + 2 * self._small_bytes

    @property
    def _small_bytes(self) -> int:
        """Bytes of all that is no histogram, with an allowance for objects."""
        return 2**12 + 8 * (4 + PAIR_COUNTS) * (self._models + 1) ** 2

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory: tiles of all task vectors, marks, the tables of selection."""
        long = _longest(self._tile, self.block[1])
        tables = 8 * TABLE_ELEMENTS + 4 * plane_elements(self.block[1])
        return (4 * (self._models + 1) + 2 * (self._models + 3)) * long + tables

    def reduce(self, step: int, chunk: Chunk, state: Measured | None) -> Sums | Lower:
        """Count and add up in a chunk; in the second pass, count only what is open."""
        return self._sums(chunk) if step == 0 else self._lower(chunk, state.open if state else ())

    def _sums(self, chunk: Chunk) -> Sums:
        found, histograms = no_sums(self._models, 0), _no_histograms(self._models)
        totals = found.counts, found.squares, found.pairs, found.products
        for count, scratch in self._tiles(chunk, found.nonfinite, found.counts[:, 0]):
            analyse_tile(count, self.block, scratch, totals, histograms)
        upper, uneven, energies = histograms
        return replace(found, upper=upper, uneven=uneven, energies=energies)

    def _lower(self, chunk: Chunk, open_: tuple[OpenCut, ...]) -> Lower:
        found = Lower(np.zeros((len(open_), LOWER_BINS), np.uint32))
        unused = np.zeros(self._models + 1, np.int64)
        for count, scratch in self._tiles(chunk, unused, unused) if open_ else ():
            for cut, counts in zip(open_, found.counts, strict=True):
                count_lower(scratch[1][cut.model, :count], cut.bin, counts)
        return found

    def _tiles(self, chunk: Chunk, nonfinite: Ints, below: Ints) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Decode a chunk tile by tile into scratch memory, and give the elements of each tile."""
        assert chunk.base is not None
        raw, tile = [read_only(each) for each in (chunk.base, *chunk.models)], self._tile
        scratch = _thread_scratch(tile, self.block[1], self._models)
        for first in range(0, chunk.stop - chunk.start, tile):
            count = min(tile, chunk.stop - chunk.start - first)
            base, taus = scratch[0][:count], scratch[1]
            finite = load_base(raw[0], self.codes[0], first, base)
            for model in range(self._models):
                tau, codes = taus[model, :count], (self.codes[0], self.codes[model + 1])
                fine, lost = load_task_vector(raw[model + 1], codes, first, base, tau)
                finite &= fine
                below[model] += lost
            if not finite:
                for model in range(self._models):
                    code, tau = self.codes[model + 1], taus[model, :count]
                    nonfinite[model + 1] += load_finite(raw[model + 1], code, first, base, tau)
                wrong = ~np.isfinite(base)
                nonfinite[0] += np.count_nonzero(wrong)
                base[wrong] = 0
            yield count, scratch

    def begin(self, step: int, state: Measured | None) -> Sums | Lower:
        """Begin with zeros."""
        if step == 0:
            return no_sums(self._models)
        assert state is not None
        return Lower(np.zeros((len(state.open), LOWER_BINS), np.int64))

    def fold(self, step: int, accumulator: Any, partial: Any) -> Sums | Lower:
        """Add the next chunk's."""
        if step == 0:
            accumulator.add(partial)
        else:
            accumulator.counts[...] += partial.counts
        return accumulator  # type: ignore[no-any-return]

    def finish(self, step: int, accumulator: Any, state: Measured | None) -> Measured:
        """Find the energy of the strongest changes."""
        if step == 0:
            return measured(accumulator, [min(self.length, ceil(share * self.length)) for share in SHARES])
        assert state is not None
        return settle(state, accumulator.counts)

    def apply(self, chunk: Chunk, state: Measured, out: Bytes) -> ChunkStatistics:
        """Never called: an analysis has no output."""
        raise AssertionError("an analysis has no output")


def _no_histograms(models: int) -> tuple[Any, ...]:
    return np.zeros((models, BINS), np.uint32), np.zeros((models, BINS), np.uint32), np.zeros((models, BINS))


_thread = threading.local()


def _longest(tile: int, m: int) -> int:
    """Give the length of arrays that hold a tile, with room for a span more."""
    return -(-(tile + whole_span(m) + SLACK) // 64) * 64


def _thread_scratch(tile: int, m: int, models: int) -> tuple[Any, ...]:
    """Give this thread's scratch memory for `analyse_tile`; it is allocated anew only where its lengths change."""
    if getattr(_thread, "lengths", None) != (tile, m, models):
        long = _longest(tile, m)
        everything = np.full(long, 0xFFFF, np.uint16)
        tables = [np.zeros(TABLE_ELEMENTS, np.uint32) for _ in range(2)]
        planes = [np.zeros(plane_elements(m), np.uint16) for _ in range(2)]
        floats = np.zeros(long, np.float32), np.zeros((models, long), np.float32)
        marks = np.zeros((models + 1, long), np.uint16), np.zeros(long, np.uint16), everything
        _thread.scratch, _thread.lengths = (*floats, *marks, (*tables, *planes)), (tile, m, models)
    scratch: tuple[Any, ...] = _thread.scratch
    return scratch


def check_block(n: int, m: int) -> tuple[int, int]:
    """Refuse numbers of n:m pruning that make no sense.

    Raises
    ------
    RecipeError
        One of them is out of range.

    """
    if m < 1 or tile_elements((m,)) is None:
        raise RecipeError(f"m is {m}", "1 to 65,536 elements in a block", "correct m")
    if not 0 <= n <= m:
        raise RecipeError(f"n is {n} and m is {m}", "n from 0 to m", "correct n or m")
    return n, m


def make_analysis(block: tuple[int, int], problem: Problem) -> Analysing:
    """Make the program of one tensor, for n:m pruning by `block`."""
    assert problem.base_code is not None
    return Analysing(problem.length, (problem.base_code, *problem.model_codes), block)


def _try(problem: Problem) -> None:
    """Call the kernels of both sweeps, those for NaN included, which are bytes of ones in every dtype."""
    program = make_analysis(DEFAULT_BLOCK, problem)
    raw = tuple(np.full(problem.length * ITEMSIZES[code], 0xFF, np.uint8) for code in program.codes)
    chunk = Chunk(0, 0, problem.length, 0, raw[0], raw[1:])
    state = program.finish(0, program.fold(0, program.begin(0, None), program.reduce(0, chunk, None)), None)
    state = replace(state, open=(OpenCut(0, 0, 1, 1),))
    program.finish(1, program.fold(1, program.begin(1, state), program.reduce(1, chunk, state)), state)


ANALYZE = Method(
    name="analyze",
    summary="Say what the task vectors of models are like.",
    paper="",
    base="origin",
    parameters=(),
    program=partial(make_analysis, DEFAULT_BLOCK),
    by_name=False,
    trial=_try,
)
"""What an analysis has in place of a row of the table of methods."""

"""Runs a program over whole arrays in memory, chunk by chunk, the way the engine does."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.program import Chunk, ChunkStatistics, Problem, Program, State
from dovetail.engine.methods.registry import METHODS

Array = NDArray[Any]

DTYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(name)
    for name in (
        np.float32,
        np.float16,
        ml_dtypes.bfloat16,
        np.float64,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
    )
)
"""Numpy dtypes in the order of the kernels' dtype codes."""


def make_problem(
    method: str,
    base: Array | None,
    models: Sequence[Array],
    model_parameters: Sequence[Mapping[str, Any]],
    out_dtype: np.dtype[Any],
    **parameters: Any,
) -> Problem:
    """Describe a tensor to a method, with the method's defaults for the merge-wide parameters not given."""
    defaults = {row.name: row.default for row in METHODS[method].parameters if row.scope == "merge"}
    return Problem(
        name="layer.weight",
        shape=np.shape(models[0]),
        length=int(np.size(models[0])),
        base_code=None if base is None else DTYPES.index(base.dtype),
        model_codes=tuple(DTYPES.index(model.dtype) for model in models),
        out_code=DTYPES.index(np.dtype(out_dtype)),
        parameters=defaults | parameters,
        model_parameters=tuple(model_parameters),
    )


def run_program(
    problem: Problem,
    program: Program,
    base: Array | None,
    models: Sequence[Array],
    cuts: Sequence[int] = (),
    widen: int = 0,
) -> tuple[Array, list[ChunkStatistics]]:
    """Run all passes of a program and give the output tensor and the statistics of each chunk.

    Parameters
    ----------
    problem, program
        The tensor and what is to be done to it.
    base, models
        The sources.
    cuts
        Elements where the tensor is cut into chunks; none for a single chunk.
    widen
        Extra elements that the windows have on each side.

    """
    length = problem.length
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < length), length]
    ranges = list(pairwise(edges))
    state: State = None
    # Unjitted kernels would warn where compiled ones compute NaN and infinity without a word.
    with np.errstate(all="ignore"):
        for step in range(program.reduce_passes):
            wanted = program.reads(step, state)
            if wanted is not None and not wanted:
                continue
            accumulator = program.begin(step, state)
            for index, edge in enumerate(ranges if wanted is None else [(0, 0)]):
                chunk = (
                    _sample(base, models, wanted)
                    if wanted
                    else _chunk(program, base, models, index, edge, widen, length)
                )
                accumulator = program.fold(step, accumulator, program.reduce(step, chunk, state))
                del chunk  # one at a time
            state = pickle.loads(pickle.dumps(program.finish(step, accumulator, state)))
        out_dtype = DTYPES[problem.out_code]
        out = np.full(length, 1, out_dtype)
        statistics = []
        program = pickle.loads(pickle.dumps(program))
        for index, (start, stop) in enumerate(ranges):
            chunk = _chunk(program, base, models, index, (start, stop), widen, length)
            statistics.append(program.apply(chunk, state, out[start:stop].view(np.uint8)))
    return out.reshape(problem.shape), statistics


def _chunk(
    program: Program,
    base: Array | None,
    models: Sequence[Array],
    index: int,
    edges: tuple[int, int],
    widen: int,
    length: int,
) -> Chunk:
    low, high = program.window(*edges)
    assert 0 <= low <= edges[0] <= edges[1] <= high <= length
    low, high = max(0, low - widen), min(length, high + widen)
    parts = [np.ravel(source)[low:high].copy().view(np.uint8) for source in models]
    for part in parts[1:]:
        # Memory-mapped sources are read-only, others are not: programs take both.
        part.flags.writeable = False
    base_part = None if base is None else np.ravel(base)[low:high].copy().view(np.uint8)
    return Chunk(index, edges[0], edges[1], low, base_part, tuple(parts))


def _sample(base: Array | None, models: Sequence[Array], wanted: Sequence[tuple[int, int]]) -> Chunk:
    """Cut the runs of a sample out of the sources, and nothing around them."""
    places = np.concatenate([np.arange(*edges) for edges in wanted])
    parts = [np.ravel(source)[places].view(np.uint8) for source in models]
    base_part = None if base is None else np.ravel(base)[places].view(np.uint8)
    return Chunk(0, 0, places.size, 0, base_part, tuple(parts))


def add_up(statistics: Sequence[ChunkStatistics]) -> ChunkStatistics:
    """Add up the statistics of a tensor's chunks."""
    first = statistics[0]
    return ChunkStatistics(
        kept=sum((each.kept for each in statistics), np.zeros_like(first.kept)),
        delta_square=sum((each.delta_square for each in statistics), np.zeros_like(first.delta_square)),
        kept_square=sum((each.kept_square for each in statistics), np.zeros_like(first.kept_square)),
        merged_square=sum(each.merged_square for each in statistics),
        overflowed=sum(each.overflowed for each in statistics),
        nonfinite=sum((each.nonfinite for each in statistics), np.zeros_like(first.nonfinite)),
    )


def as_sources(stored: Sequence[Array]) -> tuple[NDArray[np.uint8], ...]:
    """View stored tensors as what methods give to kernels: bytes that cannot be written, like those of mapped files."""
    views = tuple(each.view(np.uint8) for each in stored)
    for view in views:
        view.flags.writeable = False
    return views


def bits(array: Array) -> Array:
    """Give an array's stored bits as integers, with every NaN the same."""
    flat = np.ascontiguousarray(array).reshape(-1)
    stored = flat.view(f"u{flat.dtype.itemsize}").copy()
    stored[np.isnan(flat.astype(np.float64))] = np.iinfo(stored.dtype).max
    return stored

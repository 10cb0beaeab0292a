"""Measuring how far two checkpoints lie apart, tensor by tensor: the function behind ``dovetail compare``."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine import events
from dovetail.engine.actions.comparison import Comparison, Difference
from dovetail.engine.actions.convert import find_source, parse_source
from dovetail.engine.kernels import compare as kernel
from dovetail.engine.methods.decoding import read_only
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES, Piece, chunk_elements, make_jobs
from dovetail.engine.planning.locations import open_location
from dovetail.engine.planning.plan import READ_AHEAD
from dovetail.engine.progress import shows_progress
from dovetail.engine.run.budget import TENSOR_BYTES, Budget, default_limit_bytes, fit, least
from dovetail.engine.run.chunk_sharing import pool_bytes
from dovetail.engine.run.differences import same_bytes
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.warm import warm_up
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import to_numpy
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import resident_bytes, usable_cores
from dovetail.io.files.mapping import forget_files
from dovetail.io.files.threads import Threads, result_of
from dovetail.io.remote.retrying import Patience, patient
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks

_TILE = 1 << 14
"""Number of integers that are compared at a time."""


@shows_progress("comparing")
def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    *,
    progress: bool | events.Listener = False,
) -> Comparison:
    """Compare two checkpoints, which may be of different formats, within a memory limit.

    Parameters
    ----------
    first, second
        The checkpoints: each anything that a recipe can name as a model.
    run
        Memory limit and workers.
    listen
        Receives progress, and warnings about the checkpoints, on the calling thread.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Comparison
        How far every pair of tensors lies apart; `Comparison.beyond` names the tensors that exceed given `Limits`.

    Raises
    ------
    CheckpointError
        A checkpoint is bad.
    MemoryLimitError
        The memory limit is too small.

    Examples
    --------
    >>> found = compare("math", "code")
    >>> found.beyond(Limits(max_abs=1.0))
    ()

    """
    started, run = time.monotonic(), run or RunOptions()
    sources = (replace(find_source(parse_source(name)), to_download="") for name in (first, second))
    one, other = (open_location(source) for source in sources)
    for note in (*one.notes, *other.notes):
        listen(events.Notice("warning", note))
    pairs, unlike = _pairs(one, other)
    warm_up([kernel.trial], lambda text: listen(events.Notice("info", text)))
    tasks = _tasks(pairs)
    budget = _budget(pairs, tasks, run)
    budget = replace(budget, shared_bytes=pool_bytes((info.source for pair in pairs for info in pair), budget))
    differences = {
        a.name: Difference(a.name, (a.dtype.name, b.dtype.name), a.length, same_bits=a.dtype == b.dtype)
        for a, b in pairs
    }
    total = sum(a.nbytes + b.nbytes for a, b in pairs)
    done = 0
    with held(), contextlib.closing(_in_order(tasks, pairs, budget)) as results:
        for task, found in results:
            for piece, difference in zip(task, found, strict=True):
                differences[difference.name].add(difference)
                a, b = pairs[piece.tensor]
                done += (piece.stop - piece.start) * (a.dtype.itemsize + b.dtype.itemsize)
            listen(events.Progress(done, total, time.monotonic() - started, resident_bytes()))
    forget_files()
    for checkpoint in (one, other):
        checkpoint.check_unchanged()
    return Comparison(
        differences=tuple(differences.values()),
        only_first=tuple(name for name in one.tensors if name not in other.tensors),
        only_second=tuple(name for name in other.tensors if name not in one.tensors),
        unlike=tuple(unlike),
        budget=budget,
        seconds=time.monotonic() - started,
    )


Pair = tuple[TensorInfo, TensorInfo]
Task = tuple[Piece, ...]


def _pairs(one: Checkpoint, other: Checkpoint) -> tuple[list[Pair], list[tuple[str, str, str]]]:
    """Divide the tensors that both checkpoints have into pairs that can be compared and those that cannot."""
    pairs, unlike = [], []
    for name, a in one.tensors.items():
        b = other.tensors.get(name)
        if b is None:
            continue
        if a.shape == b.shape and a.dtype.mergeable == b.dtype.mergeable:
            pairs.append((a, b))
        else:
            unlike.append((name, f"{a.dtype} {list(a.shape)}", f"{b.dtype} {list(b.shape)}"))
    return pairs, unlike


def _tasks(pairs: Sequence[Pair]) -> list[Task]:
    """Cut the tensors into chunks, and group the chunks into tasks, as the plan of a merge does."""
    element_bytes = [a.dtype.itemsize + b.dtype.itemsize for a, b in pairs]
    jobs = make_jobs([a.length for a, _ in pairs], element_bytes, [chunk_elements(size) for size in element_bytes])
    return [task for job in jobs for task in job.tasks]


def _budget(pairs: Sequence[Pair], tasks: Iterable[Task], run: RunOptions) -> Budget:
    """Choose the number of workers with which the tasks stay within the memory limit."""
    most = max((_piece_bytes(pairs[piece.tensor], piece) for task in tasks for piece in task), default=0)
    workers = run.workers if run.workers is not None else usable_cores()
    reserved = resident_bytes() + TENSOR_BYTES * len(pairs)
    return fit(run.memory_bytes or default_limit_bytes(least(reserved, most)), reserved, most, workers)


def _piece_bytes(pair: Pair, piece: Piece) -> int:
    """Compute the memory that comparing a piece takes at most: both inputs, copies that sources make, scratch space."""
    elements = piece.stop - piece.start
    windows = sum(elements * info.dtype.itemsize * (2 if info.source.copies else 1) for info in pair)
    decoding = max(info.source.scratch_bytes for info in pair)  # 0 for sources that need not decode
    return windows + decoding + 2 * PAGE_SLACK_BYTES + kernel.scratch_bytes() + 64 * _TILE


def _in_order(
    tasks: Iterable[Task], pairs: Sequence[Pair], budget: Budget
) -> Generator[tuple[Task, list[Difference]], None, None]:
    """Run tasks on threads, a bounded number of them at once, and yield each with its result, in the order given."""
    under_way: deque[tuple[Task, Future[list[Difference]]]] = deque()
    patience, chunks, workers = Patience(), ChunkPool(budget.shared_bytes), budget.workers

    def run_patiently(task: Task) -> list[Difference]:
        with patient(patience), sharing_chunks(chunks):
            return [_compare_piece(*pairs[piece.tensor], piece.start, piece.stop) for piece in task]

    with Threads(workers, thread_name_prefix="dovetail-compare") as pool:
        try:
            for task in tasks:
                for piece in task:
                    for info in pairs[piece.tensor]:
                        info.source.prefetch(piece.start, piece.stop)
                under_way.append((task, pool.submit(run_patiently, task)))
                if len(under_way) >= workers + READ_AHEAD:
                    first, future = under_way.popleft()
                    yield first, result_of(future)
            while under_way:
                first, future = under_way.popleft()
                yield first, result_of(future)
        finally:
            patience.give_up()  # so that no task goes on waiting for a server
            for _, future in under_way:
                future.cancel()


def _compare_piece(a: TensorInfo, b: TensorInfo, start: int, stop: int) -> Difference:
    """Compare elements ``start:stop`` of two tensors."""
    found = Difference(a.name, (a.dtype.name, b.dtype.name), stop - start)
    for info in (a, b):
        info.source.populate(start, stop)  # raises an error for pages that cannot be read, which else kill the process
    first, second = a.source.read(start, stop), b.source.read(start, stop)
    found.same_bits = a.dtype == b.dtype and same_bytes(first, second)
    if not found.same_bits:
        (_compare_floats if a.dtype.mergeable else _compare_integers)(a, first, b, second, found)
    del first, second
    for info in (a, b):
        info.source.release(start, stop)
    return found


def _compare_floats(
    a: TensorInfo, first: NDArray[np.uint8], b: TensorInfo, second: NDArray[np.uint8], found: Difference
) -> None:
    codes = a.dtype.kernel_code, b.dtype.kernel_code
    counts, maxima = np.zeros(3, np.uint64), np.zeros(2)
    kernel.compare(read_only(first), codes[0], read_only(second), codes[1], kernel.coarser(*codes), counts, maxima)
    found.changed, found.unmatched, found.max_ulp = (int(count) for count in counts)
    found.max_abs, found.max_rel = (float(value) for value in maxima)


def _compare_integers(
    a: TensorInfo, first: NDArray[np.uint8], b: TensorInfo, second: NDArray[np.uint8], found: Difference
) -> None:
    """Compare integers exactly, by magnitudes of 64 bits and signs, because a difference can need 65 bits."""
    one, other = (raw.view(_stored(info)) for info, raw in ((a, first), (b, second)))
    for start in range(0, one.size, _TILE):
        x, y = one[start : start + _TILE], other[start : start + _TILE]
        differ = np.flatnonzero((x != y) | ((x < 0) != (y < 0)))
        if not differ.size:
            continue
        (p, p_negative), (q, q_negative) = _magnitudes(x[differ]), _magnitudes(y[differ])
        low, high = np.minimum(p, q), np.maximum(p, q)
        total = np.where(high > np.iinfo(np.uint64).max - low, np.iinfo(np.uint64).max, high + low)
        distance = np.where(p_negative == q_negative, high - low, total)
        found.changed += int(differ.size)
        found.max_ulp = max(found.max_ulp, int(distance.max()))
        found.max_rel = max(found.max_rel, float((distance / high).max()))
    found.max_abs = float(found.max_ulp)


def _stored(info: TensorInfo) -> np.dtype[Any]:
    """Give the numpy dtype of integers; elements of any other type are compared as unsigned integers of their size."""
    return to_numpy(info.dtype) if info.dtype.is_integer else np.dtype(f"<u{info.dtype.itemsize}")


def _magnitudes(values: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Give the magnitudes of integers, exact even for the least integer of 64 bits, and whether they are negative."""
    negative = values < 0
    wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
    return np.where(negative, ~wide + np.uint64(1), wide), negative

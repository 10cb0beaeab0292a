"""Cutting tensors into chunks and chunks into tasks.

The grid depends on nothing but the recipe and the checkpoints' headers: never on the memory limit or the number of
workers. Checksums and statistics are taken chunk by chunk, so they depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dovetail.io.files.mapping import RELEASE_GRANULE_BYTES

TASK_BYTES = 16 * 2**20
"""Target for the bytes that one task reads and writes."""

LEAST_TASK_BYTES = 4 * 2**20
"""What is left of the target however many inputs there are."""

INPUT_BYTES = 3 * 2**19
"""Resident pages around the window of an input, on the average. Beyond a base model and two fine-tunes, the target
shrinks by as much, so that a task holds the same memory for any number of models."""

BATCH_PIECES = 512
"""Most tensors in one batch of small tensors."""

OPEN_JOBS = 4
"""Jobs that may wait for a pass to complete while others use the workers."""

CHUNK_STEP = 1 << 16
"""Chunks are multiples of this many elements: a multiple of all the usual block lengths m."""


class Piece(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """A run of elements of one output tensor."""

    tensor: int
    """Index in the plan's tensors."""
    chunk: int
    """Index of the chunk in its tensor."""
    start: int
    """First element."""
    stop: int
    """One past the last element."""


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks that belong together: the chunks of one large tensor, or one batch of small ones."""

    first_task: int
    """Index of its first task."""
    tasks: tuple[tuple[Piece, ...], ...]
    """The pieces of each task."""

    def __repr__(self) -> str:
        pieces = sum(map(len, self.tasks))
        return f"Job(first_task={self.first_task}, tasks: {len(self.tasks)}, pieces: {pieces})"


def chunk_elements(element_bytes: int, inputs: int = 3) -> int:
    """Give the number of elements in a chunk of a tensor.

    Parameters
    ----------
    element_bytes
        Bytes read and written for each element.
    inputs
        Tensors that are read.

    """
    least = min(LEAST_TASK_BYTES, TASK_BYTES)
    target = max(least, TASK_BYTES - INPUT_BYTES * max(0, inputs - 3))
    return max(CHUNK_STEP, target // max(1, element_bytes) // CHUNK_STEP * CHUNK_STEP)


def chunk_range(length: int, chunk: int, period: int, index: int) -> tuple[int, int]:
    """Give the elements ``[start, stop)`` of one chunk of a tensor.

    Parameters
    ----------
    length
        Elements of the tensor.
    chunk, period
        Elements of its chunks, and the elements after which they begin anew; 0 if they never do.
    index
        Which chunk.

    """
    if not period:
        start = index * chunk
        return start, min(length, start + chunk)
    turn, place = divmod(index, -(-period // chunk))
    start = turn * period + place * chunk
    return start, min(length, start + chunk, (turn + 1) * period)


def chunk_count(length: int, chunk: int, period: int) -> int:
    """Give the number of chunks of a tensor, at least one: see `chunk_range`."""
    if not period:
        return max(1, -(-length // chunk))
    turns, rest = divmod(length, period)
    return max(1, turns * -(-period // chunk) + -(-rest // chunk))


def make_jobs(
    lengths: Sequence[int], element_bytes: Sequence[int], chunks: Sequence[int], periods: Sequence[int] | None = None
) -> list[Job]:
    """Group tensors, in order, into jobs.

    Parameters
    ----------
    lengths
        Elements of each tensor.
    element_bytes
        Bytes read and written for each element of it.
    chunks
        Elements of its chunks, from `chunk_elements`.
    periods
        Elements after which its chunks begin anew, 0 if they never do; None if no tensor's do.

    """
    jobs: list[Job] = []
    batch: list[Piece] = []
    batch_bytes = 0
    count = 0

    def close_batch() -> None:
        nonlocal batch, batch_bytes, count
        if batch:
            jobs.append(Job(count, (tuple(batch),)))
            count += 1
            batch, batch_bytes = [], 0

    parts = zip(lengths, element_bytes, chunks, periods or [0] * len(lengths), strict=True)
    for tensor, (length, size, chunk, period) in enumerate(parts):
        if chunk_count(length, chunk, period) > 1:
            close_batch()
            pieces = tuple((piece,) for piece in _cut(tensor, length, chunk, period))
            jobs.append(Job(count, pieces))
            count += len(pieces)
            continue
        if batch and (batch_bytes + length * size > TASK_BYTES or len(batch) == BATCH_PIECES):
            close_batch()
        batch.append(Piece(tensor, 0, 0, length))
        batch_bytes += length * size
    close_batch()
    return jobs


def _cut(tensor: int, length: int, chunk: int, period: int) -> Iterator[Piece]:
    for index in range(chunk_count(length, chunk, period)):
        yield Piece(tensor, index, *chunk_range(length, chunk, period, index))


PAGE_SLACK_BYTES = 2 * RELEASE_GRANULE_BYTES
"""Pages around a window of one input that become resident with it: the rest of a large folio at each end."""

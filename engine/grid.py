"""Cutting tensors into chunks and chunks into tasks.

The grid depends on nothing but the recipe and the checkpoints' headers: never on the memory limit or the number of
workers. Checksums and statistics are taken chunk by chunk, so they depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Piece:
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


def make_jobs(lengths: Sequence[int], element_bytes: Sequence[int], chunks: Sequence[int]) -> list[Job]:
    """Group tensors, in order, into jobs.

    Parameters
    ----------
    lengths
        Elements of each tensor.
    element_bytes
        Bytes read and written for each element of it.
    chunks
        Elements of its chunks, from `chunk_elements`.

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

    for tensor, (length, size, chunk) in enumerate(zip(lengths, element_bytes, chunks, strict=True)):
        if length > chunk:
            close_batch()
            pieces = tuple((piece,) for piece in _cut(tensor, length, chunk))
            jobs.append(Job(count, pieces))
            count += len(pieces)
            continue
        if batch and (batch_bytes + length * size > TASK_BYTES or len(batch) == BATCH_PIECES):
            close_batch()
        batch.append(Piece(tensor, 0, 0, length))
        batch_bytes += length * size
    close_batch()
    return jobs


def _cut(tensor: int, length: int, chunk: int) -> Iterator[Piece]:
    for index, start in enumerate(range(0, length, chunk)):
        yield Piece(tensor, index, start, min(length, start + chunk))

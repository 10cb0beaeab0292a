"""Cutting tensors into chunks and chunks into tasks.

The grid depends on nothing but the recipe and the checkpoints' headers: never on the memory limit or the number of
workers. Checksums and statistics are taken chunk by chunk, so they depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TASK_BYTES = 16 * 2**20
"""Target for the bytes that one task reads and writes."""

BATCH_PIECES = 512
"""Most tensors in one batch of small tensors."""

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


def chunk_elements(element_bytes: int) -> int:
    """Give the number of elements in a chunk of a tensor that moves `element_bytes` for each element."""
    return max(CHUNK_STEP, TASK_BYTES // max(1, element_bytes) // CHUNK_STEP * CHUNK_STEP)


def make_jobs(lengths: Sequence[int], element_bytes: Sequence[int]) -> list[Job]:
    """Group tensors, in order, into jobs.

    Parameters
    ----------
    lengths
        Elements of each tensor.
    element_bytes
        Bytes read and written for each element of it.

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

    for tensor, (length, size) in enumerate(zip(lengths, element_bytes, strict=True)):
        chunk = chunk_elements(size)
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

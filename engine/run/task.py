"""One task: read input chunks, compute output chunks, write them to their places, and return a small record.

A `Work` holds everything that a task needs and can be pickled, so that any `concurrent.futures.Executor` can run it.
A task that runs twice writes the same bytes twice.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.engine.kernels.convert import ITEMSIZES, decode
from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.methods.outputs import apply_to
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, reduce_whole
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.engine.planning.work import PieceWork, Work
from dovetail.io.errors import NonFiniteError
from dovetail.io.files.checksum import array_checksum
from dovetail.io.files.extents import JoinedWriter, SourceRange, join_mapped, part_mapped
from dovetail.io.source import MappedBytes


@dataclass(frozen=True, slots=True)
class PieceRecord:
    """What the journal and the manifest keep of one chunk that an apply pass has written."""

    tensor: int
    """Index of the output tensor."""
    chunk: int
    """Index of the chunk in its tensor."""
    checksum: int
    """XXH3-64 of the chunk's output bytes."""
    statistics: ChunkStatistics
    """Statistics of the chunk."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What a task returns to the scheduler after one pass."""

    task: int
    """Index of the task in the plan."""
    step: int
    """Number of the pass."""
    partial: Any
    """Partial result of a reduce pass; None after an apply pass."""
    pieces: tuple[PieceRecord, ...]
    """Records of an apply pass; empty after a reduce pass."""
    read_bytes: int
    """Bytes read from the inputs."""
    written_bytes: int
    """Bytes written to the output."""


_thread = threading.local()

_NOTHING = contextlib.nullcontext()


def _output_buffer(size_bytes: int) -> Bytes:
    """Give the first `size_bytes` of this thread's output buffer, which is replaced by a larger one if it is short."""
    buffer: Bytes | None = getattr(_thread, "output", None)
    if buffer is None or buffer.size < size_bytes:
        buffer = _thread.output = np.empty(size_bytes, np.uint8)
    return buffer[:size_bytes]


def prefetch(work: Work) -> None:
    """Ask the sources to begin reading the input of `work`, without waiting for it."""
    mapped, others = part_mapped(_ranges(work.pieces))
    for source, start, stop in (*join_mapped(mapped), *others):
        source.prefetch(start, stop)


def execute(work: Work) -> TaskRecord:
    """Run one pass of one task.

    Raises
    ------
    NonFiniteError
        An input holds NaN or infinity, and the plan does not keep such values.
    CheckpointError
        An input has changed or vanished since it was opened.
    OSError
        An input cannot be read, or the output cannot be written.

    """
    first = work.pieces[0]
    if work.step < first.program.reduce_passes and not first.whole:
        with resident(_ranges(work.pieces)):
            chunk = read_chunk(first)
            partial = first.program.reduce(work.step, chunk, first.state)
            read_bytes = _chunk_bytes(first)
            del chunk
        return TaskRecord(work.task, work.step, partial, (), read_bytes, 0)
    records: list[PieceRecord] = []
    read_bytes = written_bytes = 0
    for batch in batches(work.pieces):
        with resident(batch.mapped):
            places, size_bytes = _places(batch.pieces)
            buffer = _output_buffer(size_bytes)
            writer = JoinedWriter(buffer)
            for piece, places_of_piece in zip(batch.pieces, places, strict=True):
                outs = [buffer[begin:end] for begin, end in places_of_piece]
                with _NOTHING if batch.all_mapped else resident(unmapped(piece)):
                    found, size = _apply(piece, outs, keep_nonfinite=work.keep_nonfinite)
                for output, (begin, end) in zip(piece.outputs, places_of_piece, strict=True):
                    if end > begin or len(outs) == 1:  # one chunk may give no elements to some of several outputs
                        writer.write(output.slot, output.start, output.stop, begin, end)
                        written_bytes += end - begin
                records += found
                read_bytes += size
            writer.flush()
    return TaskRecord(work.task, work.step, None, tuple(records), read_bytes, written_bytes)


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces of a task that are computed while the parts of mapped files that they read are all in memory."""

    pieces: Sequence[PieceWork]
    """The pieces, in the order of the task."""
    mapped: list[SourceRange]
    """The parts of mapped files that the pieces read."""
    all_mapped: bool
    """Whether the pieces read from mapped files alone."""


def batches(pieces: Sequence[PieceWork]) -> Iterator[Batch]:
    """Divide a task's pieces into batches that each stay within the memory that the plan foresees for the task.

    The plan assumes that the inputs of the pieces follow each other in their files. Where they do not, each separate
    part brings in the rest of its first and last page, so that the pieces together can take more memory. They are then
    divided into several batches.
    """
    mapped, others = part_mapped(_ranges(pieces))
    joined, all_mapped = join_mapped(mapped), not others
    inputs = max(len(piece.inputs) for piece in pieces)
    if len(pieces) == 1 or len(joined) <= inputs:
        yield Batch(pieces, joined, all_mapped)
        return
    room = sum([part.end - part.begin for part in mapped]) + inputs * PAGE_SLACK_BYTES
    run: list[PieceWork] = []
    held_parts: list[MappedBytes] = []
    ends: set[tuple[str, int]] = set()
    held = 0
    for piece in pieces:
        parts, _ = part_mapped(_ranges([piece]))
        slack = [0 if (part.path, part.begin) in ends else PAGE_SLACK_BYTES for part in parts]
        sizes = [part.end - part.begin for part in parts]
        if run and held + sum(sizes) + sum(slack) > room:
            yield Batch(run, join_mapped(held_parts), all_mapped)
            run, held_parts, ends, held = [], [], set(), 0
            slack = [PAGE_SLACK_BYTES] * len(parts)
        run.append(piece)
        held_parts += parts
        ends |= {(part.path, part.end) for part in parts}
        held += sum(sizes) + sum(slack)
    yield Batch(run, join_mapped(held_parts), all_mapped)


def _ranges(pieces: Iterable[PieceWork]) -> list[SourceRange]:
    """List the ranges of elements that some pieces read from their sources."""
    found: list[SourceRange] = []
    for piece in pieces:
        low, high = piece.window
        found += [(item.source, low, high) for item in piece.inputs]
    return found


def unmapped(piece: PieceWork) -> list[SourceRange]:
    """List the ranges that a piece reads from sources that are no mapped files."""
    return part_mapped(_ranges([piece]))[1]


@contextlib.contextmanager
def resident(ranges: Sequence[SourceRange]) -> Iterator[None]:
    """Read ranges of sources into memory, and let them go after the block.

    A mapped page that cannot be read, because its file was cut short or the disk fails, would kill the process when a
    kernel touches it. Reading the pages first raises an error instead.
    """
    try:
        for source, start, stop in ranges:
            source.populate(start, stop)
        yield
    finally:
        for source, start, stop in ranges:
            source.release(start, stop)


def _places(pieces: Sequence[PieceWork]) -> tuple[list[list[tuple[int, int]]], int]:
    """Give each piece's outputs a place in one buffer, aligned to their elements; also give the buffer's size."""
    found: list[list[tuple[int, int]]] = []
    end = 0
    for piece in pieces:
        places = []
        for output in piece.outputs:
            begin = end + -end % output.element_bytes
            end = begin + (output.stop - output.start) * output.element_bytes
            places.append((begin, end))
        found.append(places)
    return found, end


def _apply(piece: PieceWork, outs: Sequence[Bytes], *, keep_nonfinite: bool) -> tuple[list[PieceRecord], int]:
    """Compute a piece's outputs from inputs that are in memory; give a record of each output, and the bytes read.

    The statistics describe the whole problem and not each output, so that only the record of the first output has them.
    """
    chunk = read_chunk(piece)
    state = reduce_whole(piece.program, chunk) if piece.whole else piece.state
    statistics = apply_to(piece.program, chunk, state, outs)
    if not keep_nonfinite and statistics.nonfinite.any():
        raise nonfinite_error(piece, chunk)
    records: list[PieceRecord] = []
    for output, out in zip(piece.outputs, outs, strict=True):
        if records:
            statistics = plain_statistics(0, 0, np.zeros(0, np.int64))
        checksum = array_checksum(out.data)
        records.append(PieceRecord(output.tensor, piece.chunk, checksum, statistics))
    return records, _chunk_bytes(piece)


def _chunk_bytes(piece: PieceWork) -> int:
    """Count the bytes that were read for a chunk, as they are stored."""
    return sum([item.stored_part(*piece.window) for item in piece.inputs])


def read_chunk(piece: PieceWork) -> Chunk:
    """Read what a piece needs of its sources."""
    low, high = piece.window
    return Chunk(
        index=piece.chunk,
        start=piece.start,
        stop=piece.stop,
        window_start=low,
        base=None if piece.base is None else piece.base.source.read(low, high),
        models=tuple([item.source.read(low, high) for item in piece.models]),
    )


def nonfinite_error(piece: PieceWork, chunk: Chunk) -> NonFiniteError:
    """Make the error that names the first NaN or infinity: its checkpoint, tensor and element."""
    views = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
    for item, view in zip(piece.inputs, views, strict=True):
        if item.packed:
            continue
        size = ITEMSIZES[item.code]
        values = np.empty(view.nbytes // size, np.float32)
        decode(view, item.code, 0, values.size, values)
        inside = values[piece.start - chunk.window_start : piece.stop - chunk.window_start]
        found = np.flatnonzero(~np.isfinite(inside))
        if found.size:
            index = piece.start + int(found[0])
            return NonFiniteError(
                f"{item.checkpoint}: tensor {item.tensor!r} holds {inside[found[0]]} at element {index}",
                "finite numbers",
                "repair the checkpoint, or pass --nonfinite keep to let such values through",
            )
    for item in piece.inputs:
        if item.packed:
            return NonFiniteError(
                f"tensor {item.tensor!r} of {item.checkpoint} holds NaN or infinity",
                "finite numbers, as stores of task vectors have",
                "copy the store again, or make it anew",
            )
    raise AssertionError("a kernel counted values that are not there")

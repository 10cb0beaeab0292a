"""One task: read its chunks, compute them, write them to their place in the output, return a small record.

A `Work` carries all that it needs and can be pickled, so that any `concurrent.futures.Executor` can run it. Running
it twice writes the same bytes twice.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from dovetail.engine.kernels.convert import ITEMSIZES, decode
from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.methods.outputs import apply_to
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, reduce_whole
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES
from dovetail.engine.planning.work import PieceWork, Work
from dovetail.io.errors import NonFiniteError
from dovetail.io.files.extents import JoinedWriter, SourceRange, join_mapped, part_mapped
from dovetail.io.source import MappedBytes


@dataclass(frozen=True, slots=True)
class PieceRecord:
    """What an apply pass leaves behind for the journal and the manifest."""

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
    """What one task returns."""

    task: int
    """Index of the task in the plan."""
    step: int
    """Which pass it was."""
    partial: Any
    """Partial result of a reduce pass; None after an apply pass."""
    pieces: tuple[PieceRecord, ...]
    """Records of an apply pass; empty after a reduce pass."""
    read_bytes: int
    """Bytes read."""
    written_bytes: int
    """Bytes written."""


_thread = threading.local()

_NOTHING = contextlib.nullcontext()


def _output_buffer(size_bytes: int) -> Bytes:
    """Give this thread's output buffer, grown if need be, cut to the size asked for."""
    buffer: Bytes | None = getattr(_thread, "output", None)
    if buffer is None or buffer.size < size_bytes:
        buffer = _thread.output = np.empty(size_bytes, np.uint8)
    return buffer[:size_bytes]


def prefetch(work: Work) -> None:
    """Ask the operating system to read what `work` will need, without waiting."""
    mapped, others = part_mapped(_ranges(work.pieces))
    for source, start, stop in (*join_mapped(mapped), *others):
        source.prefetch(start, stop)


def execute(work: Work) -> TaskRecord:
    """Run one pass of one task.

    Raises
    ------
    NonFiniteError
        An input holds NaN or infinity and they are not to be kept.
    CheckpointError
        An input changed or vanished since it was opened.
    OSError
        Reading or writing failed.

    """
    first = work.pieces[0]
    if work.step < first.program.reduce_passes and not first.whole:
        with _resident(_ranges(work.pieces)):
            chunk = _read(first)
            partial = first.program.reduce(work.step, chunk, first.state)
            read_bytes = _chunk_bytes(chunk)
            del chunk
        return TaskRecord(work.task, work.step, partial, (), read_bytes, 0)
    records: list[PieceRecord] = []
    read_bytes = written_bytes = 0
    for batch in batches(work.pieces):
        with _resident(batch.mapped):
            places, size_bytes = _places(batch.pieces)
            buffer = _output_buffer(size_bytes)
            writer = JoinedWriter(buffer)
            for piece, places_of_piece in zip(batch.pieces, places, strict=True):
                outs = [buffer[begin:end] for begin, end in places_of_piece]
                with _NOTHING if batch.all_mapped else _resident(part_mapped(_ranges([piece]))[1]):
                    found, size = _apply(piece, outs, keep_nonfinite=work.keep_nonfinite)
                for output, (begin, end) in zip(piece.outputs, places_of_piece, strict=True):
                    if end > begin or len(outs) == 1:  # of several outputs, a chunk may give nothing of some
                        writer.write(output.slot, output.start, output.stop, begin, end)
                        written_bytes += end - begin
                records += found
                read_bytes += size
            writer.flush()
    return TaskRecord(work.task, work.step, None, tuple(records), read_bytes, written_bytes)


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces whose inputs are in memory together, as far as they are mapped."""

    pieces: Sequence[PieceWork]
    """The pieces."""
    mapped: list[SourceRange]
    """What is held in memory of mapped files."""
    all_mapped: bool
    """Whether that is all that the pieces read."""


def batches(pieces: Sequence[PieceWork]) -> Iterator[Batch]:
    """Part a task's pieces into batches.

    A batch takes no more memory than all pieces would whose inputs follow each other in their files: where they do not,
    every place brings pages around it along, and there are several batches.
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
    """List what some pieces read."""
    found: list[SourceRange] = []
    for piece in pieces:
        low, high = piece.window
        found += [(item.source, low, high) for item in piece.inputs]
    return found


@contextlib.contextmanager
def _resident(ranges: Sequence[SourceRange]) -> Iterator[None]:
    """Hold ranges in memory.

    Touching pages that cannot be read, of a file cut short or a failing disk, would kill the process.
    """
    try:
        for source, start, stop in ranges:
            source.populate(start, stop)
        yield
    finally:
        for source, start, stop in ranges:
            source.release(start, stop)


def _places(pieces: Sequence[PieceWork]) -> tuple[list[list[tuple[int, int]]], int]:
    """Give the places of each piece's outputs in one buffer, elements aligned, and its size."""
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
    """Compute a piece's outputs from inputs that are in memory; give a record of each and the bytes read.

    Statistics are of the problem, not of its single outputs: the first one's record has them.
    """
    chunk = _read(piece)
    state = reduce_whole(piece.program, chunk) if piece.whole else piece.state
    statistics = apply_to(piece.program, chunk, state, outs)
    if not keep_nonfinite and statistics.nonfinite.any():
        raise _nonfinite_error(piece, chunk)
    records: list[PieceRecord] = []
    for output, out in zip(piece.outputs, outs, strict=True):
        if records:
            statistics = plain_statistics(0, 0, np.zeros(0, np.int64))
        checksum = xxhash.xxh3_64_intdigest(out.data)
        records.append(PieceRecord(output.tensor, piece.chunk, checksum, statistics))
    return records, _chunk_bytes(chunk)


def _chunk_bytes(chunk: Chunk) -> int:
    return sum([view.nbytes for view in chunk.models]) + (0 if chunk.base is None else chunk.base.nbytes)


def _read(piece: PieceWork) -> Chunk:
    low, high = piece.window
    return Chunk(
        index=piece.chunk,
        start=piece.start,
        stop=piece.stop,
        window_start=low,
        base=None if piece.base is None else piece.base.source.read(low, high),
        models=tuple([item.source.read(low, high) for item in piece.models]),
    )


def _nonfinite_error(piece: PieceWork, chunk: Chunk) -> NonFiniteError:
    """Find the first NaN or infinity and say where it is."""
    views = chunk.models if chunk.base is None else (chunk.base, *chunk.models)
    for item, view in zip(piece.inputs, views, strict=True):
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
    raise AssertionError("a kernel counted values that are not there")

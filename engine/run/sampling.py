"""The task that takes a sample of a tensor: a reduce pass over a few runs of elements."""

from __future__ import annotations

from dovetail.engine.methods.program import Bytes, sample_chunk
from dovetail.engine.planning.work import Input, SampleWork
from dovetail.engine.run.task import TaskRecord
from dovetail.io.files.runs import read_runs


def take_sample(work: SampleWork) -> TaskRecord:
    """Reduce the runs of a sample.

    Raises
    ------
    CheckpointError
        An input has changed or vanished since it was opened.

    """
    base = None if work.base is None else _read(work.base, work.ranges)
    chunk = sample_chunk(work.ranges, base, [_read(item, work.ranges) for item in work.models])
    partial = work.program.reduce(work.step, chunk, work.state)
    inputs = work.models if work.base is None else (work.base, *work.models)
    read_bytes = chunk.stop * sum([item.source.itemsize for item in inputs])
    return TaskRecord(work.task, work.step, partial, (), read_bytes, 0)


def _read(item: Input, ranges: tuple[tuple[int, int], ...]) -> Bytes:
    whole, size = item.source.mapped_bytes(0, item.source.length), item.source.itemsize
    assert whole is not None, "only mapped tensors are sampled"
    return read_runs(whole, [(start * size, stop * size) for start, stop in ranges])

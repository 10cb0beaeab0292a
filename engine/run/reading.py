"""Fitting work that only reads tensors, step by step, to a memory limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dovetail.engine.planning.grid import PAGE_SLACK_BYTES, TASK_BYTES
from dovetail.engine.run.budget import TENSOR_BYTES, Budget, default_limit_bytes, fit, least
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.files.checksum import READ_BYTES
from dovetail.io.files.machine import resident_bytes, usable_cores
from dovetail.io.source import Source
from dovetail.io.zarr.chunk_pool import DEFAULT_POOL_BYTES


def reading_budget(sources: Sequence[Source], run: RunOptions) -> Budget:
    """Choose how many tensors are read at once, and how much memory their decoded chunks have.

    Raises
    ------
    MemoryLimitError
        Not even one tensor can be read within the limit.

    """
    most = max((_reading_bytes(source) for source in sources), default=0)
    workers = run.workers if run.workers is not None else usable_cores()
    reserved = resident_bytes() + TENSOR_BYTES * len(sources)
    budget = fit(run.memory_bytes or default_limit_bytes(least(reserved, most)), reserved, most, workers)
    # An object of a Zarr array is read in several steps, for which the pool keeps it decoded.
    wanted = max(DEFAULT_POOL_BYTES, budget.workers * TASK_BYTES)
    return replace(budget, shared_bytes=max(0, min(wanted, budget.allowed_bytes - budget.projected_bytes)))


def _reading_bytes(source: Source) -> int:
    """Give the most memory that a step takes: its bytes, a copy of them, what reading takes besides, and pages."""
    step = min(READ_BYTES, source.length * source.itemsize)
    return step * (2 if source.copies else 1) + source.scratch_bytes + PAGE_SLACK_BYTES

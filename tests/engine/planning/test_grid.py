"""The chunk grid covers every tensor exactly once and depends on lengths alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.planning.grid import (
    BATCH_PIECES,
    CHUNK_STEP,
    INPUT_BYTES,
    LEAST_TASK_BYTES,
    TASK_BYTES,
    chunk_count,
    chunk_elements,
    chunk_range,
    make_jobs,
)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9_000_000), st.sampled_from([2, 8, 12, 36])), max_size=40))
def test_pieces_cover_every_tensor_once(tensors: list[tuple[int, int]]) -> None:
    """The pieces of a tensor follow one another from 0 to its length, numbered in order."""
    chunks = [chunk_elements(size) for _, size in tensors]
    jobs = make_jobs([length for length, _ in tensors], [size for _, size in tensors], chunks)
    seen: dict[int, list[tuple[int, int, int]]] = {}
    for job in jobs:
        for task in job.tasks:
            for piece in task:
                seen.setdefault(piece.tensor, []).append((piece.chunk, piece.start, piece.stop))
    assert list(range(len(tensors))) == sorted(seen)
    for number, (length, size) in enumerate(tensors):
        position = 0
        for index, (chunk, start, stop) in enumerate(seen[number]):
            assert (index, position) == (chunk, start)
            assert stop - start <= chunk_elements(size)
            position = stop
        assert length == position


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3_000_000), max_size=2000))
def test_tasks_are_bounded_and_numbered(lengths: list[int]) -> None:
    """No task moves more than the target, batches hold a bounded number of tensors, and numbers are consecutive."""
    jobs = make_jobs(lengths, [8] * len(lengths), [chunk_elements(8)] * len(lengths))
    expected = 0
    for job in jobs:
        assert expected == job.first_task
        expected += len(job.tasks)
        for task in job.tasks:
            assert sum((piece.stop - piece.start) * 8 for piece in task) <= TASK_BYTES
            assert len(task) <= BATCH_PIECES


@pytest.mark.parametrize("inputs", range(1, 20))
def test_more_inputs_take_no_more_memory(inputs: int) -> None:
    """Chunks shrink with every model beyond the second, but never to nothing."""
    element_bytes = 2 * (inputs + 1)
    chunk = chunk_elements(element_bytes, inputs)
    assert CHUNK_STEP <= chunk <= chunk_elements(element_bytes)
    held = chunk * element_bytes + max(0, inputs - 3) * INPUT_BYTES
    assert held <= max(TASK_BYTES, LEAST_TASK_BYTES + inputs * INPUT_BYTES)


@given(length=st.integers(0, 200), chunk=st.integers(1, 50), period=st.integers(0, 60))
def test_chunks_with_a_period_follow_one_another(length: int, chunk: int, period: int) -> None:
    """Chunks cover a tensor in order; each ends where the grid says: after so many elements, a period, or the end."""
    begin = 0
    for index in range(chunk_count(length, chunk, period)):
        start, stop = chunk_range(length, chunk, period, index)
        assert begin == start
        assert min(start + chunk, length, *([(start // period + 1) * period] if period else [])) == stop
        begin = stop
    assert length == begin

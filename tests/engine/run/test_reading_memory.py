"""Work that only reads, comparing, verifying, computing again and extracting, keeps to the memory that it foresees."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import merge
from dovetail.engine.actions import compare as comparing
from dovetail.engine.actions import extract_lora, recompute
from dovetail.engine.actions.compare import compare
from dovetail.engine.actions.verify import verify
from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.planning import grid
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.plan import plan_extraction
from dovetail.engine.run import reading
from dovetail.engine.run.budget import MARGIN_BYTES, WORKER_OVERHEAD_BYTES, Budget
from dovetail.engine.run.differences import COMPARING_BYTES, same_bytes
from dovetail.engine.run.prepare import RunOptions
from dovetail.io import open_checkpoint, read_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.io.zarr_files import write_arrays, write_t5x

MIB = 2**20


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 5])
def test_bytes_are_compared_step_by_step(size: int) -> None:
    """Equal bytes are equal, a difference is found wherever it is, and no mark of every byte is made."""
    one = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    tracemalloc.start()
    try:
        assert same_bytes(one, one)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MIB
    finally:
        tracemalloc.stop()
    for place in {0, size // 2, size - 1} if size else ():
        other = one.copy()
        other[place] ^= 1
        assert not same_bytes(one, other)


def test_chunks_that_comparisons_share_are_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tasks share the chunks of Zarr, those that are kept are part of the projection, and take what is left."""
    monkeypatch.setattr(grid, "TASK_BYTES", MIB)
    monkeypatch.setattr(comparing, "resident_bytes", lambda: 100 * MIB)
    names = [str(tmp_path / name) for name in ("one", "other")]
    for name in names:
        write_t5x(Path(name), {"w": np.zeros((1024, 4096), np.float32)}, rows=1024, columns=256, codec="zstd")
    found = compare(*names, RunOptions(workers=1)).budget
    assert found.shared_bytes > 0
    least = found.reserved_bytes + found.task_bytes + WORKER_OVERHEAD_BYTES + MARGIN_BYTES
    tracemalloc.start()
    try:
        found = compare(*names, RunOptions(memory_bytes=least + 4 * MIB, workers=1)).budget
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shared_bytes <= 4 * MIB + MIB
    assert peak <= found.projected_bytes - found.reserved_bytes <= 32 * MIB


def test_verifying_keeps_to_a_limit(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many cores there are, no more tensors are read at once than the limit has room for."""
    merge(family.recipe_path, family.out)
    monkeypatch.setattr(reading, "usable_cores", lambda: 1000)
    sources = [info.source for info in read_checkpoint(family.out).tensors.values()]
    budget = reading.reading_budget(sources, RunOptions())
    some = reading.reading_budget(sources, RunOptions(memory_bytes=budget.reserved_bytes + 40 * MIB))
    for found in (budget, some):
        assert 1 <= found.workers <= 1000
        assert found.projected_bytes <= found.allowed_bytes
    assert some.workers < 10
    with pytest.raises(MemoryLimitError, match="memory limit 1 MiB is too small"):
        verify(family.out, run=RunOptions(memory_bytes=MIB))
    assert 4 == dovetail("verify", family.out, "--memory", "1MiB").code


def test_what_is_computed_again_is_compared_within_the_budget(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is computed again holds, besides, the bytes of the output and what reading them takes."""
    merge(family.recipe_path, family.out)
    plain: list[int] = []
    prepare = recompute.prepare

    def listen(plan: Any, run: RunOptions, *others: Any, compared_bytes: int) -> Any:
        plain.append(compared_bytes)
        return prepare(plan, run, *others, compared_bytes=compared_bytes)

    monkeypatch.setattr(recompute, "prepare", listen)
    recompute.recompute(family.out, 1.0)
    largest = max(int(np.prod(array.shape)) * array.dtype.itemsize for _, array in open_checkpoint(family.out).arrays())
    assert [largest + grid.PAGE_SLACK_BYTES] == plain


def test_reading_what_an_adapter_keeps_whole_is_foreseen(tmp_path: Path) -> None:
    """A large chunk of a tensor that is no matrix counts in the projection of an extraction."""
    for name in ("tuned", "base"):
        folder = tmp_path / name
        folder.mkdir()
        arrays = {"model.norm.weight": np.zeros(2**21, np.float32), "q_proj.weight": np.zeros((8, 8), np.float32)}
        write_arrays(folder, arrays, chunks=lambda shape: shape)
    tuned, base = read_checkpoint(tmp_path / "tuned"), read_checkpoint(tmp_path / "base")
    plan = plan_extraction(tuned, base, ("tuned", "base"), ExtractionOptions())
    scratch = tuned.tensors["model.norm.weight"].source.scratch_bytes
    budget: Budget = extract_lora._budget(plan, RunOptions(workers=1))
    assert scratch > 16 * MIB
    assert budget.task_bytes >= COMPARING_BYTES + scratch
    assert budget.shared_bytes > 0

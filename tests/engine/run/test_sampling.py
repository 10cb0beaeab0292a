"""Merges that take samples of their inputs: what they read and say of it, and what they do where memory is short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import events, merge
from dovetail.engine.methods import sample, selection
from dovetail.engine.methods.sample import Sample, runs, sample_elements
from dovetail.engine.methods.selection import Search
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.run import prepare
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files.runs import read_runs
from dovetail.io.source import MappedBytes
from tests.checkpoints import cabs_recipe, folder_bytes
from tests.engine.awkward import base_tensors, tuned_tensors, write_family
from tests.engine.command import dovetail

METHODS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "ties": ("ties", {"density": 0.4, "weight": 0.7}, 3, 1),
    "ties with rescaling": ("ties", {"density": 0.4, "weight": 0.7, "rescale": True}, 3, 2),
    "sce": ("sce", {"select_topk": 0.3}, 3, 2),
    "arcee_fusion": ("arcee_fusion", {}, 1, 2),
    "cabs": ("cabs", {"n": 3, "m": 10, "weight": 0.7, "balanced": False}, 3, 3),
}
"""Method, parameters, number of models, and reduce passes over all elements where samples lead to the ranks."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut tensors into chunks of 100 elements, and take samples of small ones."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 100)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    for name, value in (("RUN", 8), ("LEAST_LENGTH", 150), ("_LEAST_RUNS", 16), ("_ELEMENTS_PER_RUN", 10)):
        monkeypatch.setattr(sample, name, value)
    monkeypatch.setattr(Search, "_most_bytes", property(lambda self: selection.GATHERED_BYTES))
    runs.cache_clear()
    yield
    runs.cache_clear()


def family(home: Path, case: str) -> Path:
    """Make a family in bfloat16 and a recipe."""
    method, parameters, count, _ = METHODS[case]
    base = base_tensors("bfloat16")
    folder, folders = write_family(home, base, [tuned_tensors(base, seed, "bfloat16") for seed in range(count)])
    return cabs_recipe(home / "recipe.yml", folder, folders, merge_method=method, parameters=parameters)


def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for samples."""
    monkeypatch.setattr(prepare, "_generous", lambda needs, frugal: None)


def read_bytes(recipe: Path, out: Path) -> tuple[int, int]:
    """Merge; give the bytes that the plan and the merge say that they read."""
    outcome = dovetail("merge", recipe, out, "--json", "--workers", "2")
    assert 0 == outcome.code, outcome.err
    planned = next(event["read_bytes"] for event in outcome.events if event["event"] == "started")
    return planned, outcome.events[-1]["read_bytes"]


@pytest.mark.parametrize("case", METHODS)
def test_samples_spare_passes_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """The bytes are those of a merge that counts digits; the plan says how much less is read, and so it is."""
    recipe = family(tmp_path, case)
    planned, found = read_bytes(recipe, tmp_path / "sampled")
    plan = make_plan(recipe)
    passes = {tensor.passes for tensor in plan.tensors if tensor.chunk_count > 1 and sample_elements(tensor.length)}
    assert ({1 + METHODS[case][3]}, plan.read_bytes) == (passes, planned)
    short_of_memory(monkeypatch)
    more, counted = read_bytes(recipe, tmp_path / "counted")
    assert folder_bytes(tmp_path / "counted") == folder_bytes(tmp_path / "sampled")
    assert (found, planned) < (counted, more)
    if case == "ties":  # others read blocks that end beyond their chunks, which the plan does not count
        assert (planned, more) == (found, counted)


def test_what_a_sample_missed_is_read_again_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where brackets miss, the bytes are the same, and progress ends at its total, which has grown."""
    recipe, seen = family(tmp_path, "ties"), list[events.Progress]()
    merge(recipe, tmp_path / "good", run=RunOptions(workers=2))
    monkeypatch.setattr(Sample, "bracket", lambda self, share: (1, 1))

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            seen.append(event)

    merge(recipe, tmp_path / "missed", run=RunOptions(workers=2), progress=listen)
    assert folder_bytes(tmp_path / "good") == folder_bytes(tmp_path / "missed")
    assert seen[-1].total_bytes == seen[-1].done_bytes
    assert seen[-1].total_bytes > seen[0].total_bytes


@pytest.mark.parametrize("sampled", [True, False])
def test_passes_that_find_nothing_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: bool
) -> None:
    """Where models are the base model, every change is kept after one pass, and progress still ends at its total."""
    base = base_tensors("bfloat16")
    folder, folders = write_family(tmp_path, base, [base, base])
    parameters = {"density": 0.4, "weight": 0.7}
    recipe = cabs_recipe(tmp_path / "r.yml", folder, folders, merge_method="ties", parameters=parameters)
    if not sampled:
        short_of_memory(monkeypatch)
    seen = list[events.Progress]()
    merge(recipe, tmp_path / "out", run=RunOptions(workers=2), progress=lambda event: seen.append(event))
    last = [event for event in seen if isinstance(event, events.Progress)][-1]
    assert last.total_bytes == last.done_bytes


def test_kernels_for_samples_are_ready(tmp_path: Path) -> None:
    """What only large tensors need is loaded, or compiled by another process, before the first task."""
    called = list[Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "warm_up", lambda needed, compiling: called.extend(needed))
        prepare.prepare(make_plan(family(tmp_path, "ties")), RunOptions(2**40))
    assert selection.try_sampling in called
    before = len(selection.count_bracket.signatures)
    selection.try_sampling()
    merge(tmp_path / "recipe.yml", tmp_path / "out")
    assert max(before, 1) == len(selection.count_bracket.signatures)


def test_samples_are_taken_in_other_processes(tmp_path: Path) -> None:
    """Processes that share no memory with this one take samples too, with the same result."""
    recipe = family(tmp_path, "ties")
    merge(recipe, tmp_path / "threads", run=RunOptions(workers=2))
    with ProcessPoolExecutor(2) as pool:
        merge(recipe, tmp_path / "processes", run=RunOptions(workers=2, executor=pool))
    assert folder_bytes(tmp_path / "threads") == folder_bytes(tmp_path / "processes")


def test_an_interrupted_merge_samples_anew(tmp_path: Path) -> None:
    """A merge that stopped after some chunks is continued to the same bytes."""
    recipe = family(tmp_path, "ties")
    merge(recipe, tmp_path / "whole", run=RunOptions(workers=1))

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Committed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(recipe, tmp_path / "out", run=RunOptions(workers=1), progress=stop)
    merge(recipe, tmp_path / "out", run=RunOptions(workers=1))
    assert folder_bytes(tmp_path / "whole") == folder_bytes(tmp_path / "out")


def test_where_memory_is_short_there_are_no_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples cost neither workers nor a larger limit: they are taken where what they lead to fits besides."""
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)
    plan = make_plan(family(tmp_path, "ties"))
    roomy, _ = prepare.prepare(plan, RunOptions(2**40, workers=4))
    tight, _ = prepare.prepare(plan.frugal(), RunOptions(2**40, workers=4))
    assert (False, False, 4, 4) == (roomy.frugal, tight.frugal, roomy.workers, tight.workers)
    assert tight.projected_bytes < roomy.projected_bytes
    found, _ = prepare.prepare(plan, RunOptions(tight.projected_bytes, workers=4))
    assert (True, 4, tight.projected_bytes) == (found.frugal, found.workers, found.projected_bytes)
    shown = dovetail("plan", tmp_path / "recipe.yml", "--json", "--memory", "8GiB").out
    assert plan.read_bytes == json.loads(shown)["read_bytes"] < plan.frugal().read_bytes


@pytest.fixture
def whole(tmp_path: Path) -> MappedBytes:
    """Write a file, and give a range of it."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)))
    status = path.stat()
    return MappedBytes(str(path), status.st_size, status.st_mtime_ns, 50, 150)


def test_runs_of_a_file_are_read(whole: MappedBytes) -> None:
    """Runs come one after another; positions count from the beginning of the range."""
    assert [50, 51, 60, 149] == read_runs(whole, [(0, 2), (10, 11), (99, 100)]).tolist()
    assert [] == read_runs(whole, []).tolist()


def test_files_that_are_not_as_they_were(whole: MappedBytes) -> None:
    """A file that has changed, was cut short meanwhile, or is gone, is an error that names it."""
    path = Path(whole.path)
    with pytest.raises(ChangedFileError, match=r"data can no longer be read at bytes .* cut short"):
        read_runs(whole._replace(end=400), [(0, 2), (149, 200)])
    os.utime(path, ns=(0, 0))
    with pytest.raises(ChangedFileError, match="data changed since the checkpoint was opened"):
        read_runs(whole, [(0, 2)])
    path.unlink()
    with pytest.raises(MissingFileError, match="cannot open"):
        read_runs(whole, [(0, 2)])

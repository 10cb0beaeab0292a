"""Problems with several output tensors can be planned, run, resumed, verified and recomputed as others can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import InterruptedMergeError, RecipeError, VerificationError
from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.checkpoints import folder_bytes, llama_tensors, read_output, write_checkpoint, write_recipe
from tests.engine.actions.test_same_bytes import Backwards
from tests.engine.awkward import same_bits
from tests.engine.interrupt import Interrupter, commit_often
from tests.engine.methods.parted import PARTED, Halves

OPTIONS = PlanOptions(SafetensorsFormat(20_000))


@dataclasses.dataclass(frozen=True)
class Case:
    """A recipe of a method with several outputs, and the tensors that it must give."""

    home: Path
    recipe: Path
    expected: dict[str, NDArray[Any]]


@pytest.fixture(params=PARTED)
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Enter a method in the table and write a recipe of two models for it."""
    for name, (method, _) in PARTED.items():
        monkeypatch.setitem(METHODS, name, method)
    base = llama_tensors(0)
    models = [base, llama_tensors(1, base)]
    folders = [write_checkpoint(tmp_path / f"model{number}", model) for number, model in enumerate(models)]
    recipe = write_recipe(
        tmp_path / "recipe.yml",
        merge_method=request.param,
        models=[{"model": str(folder)} for folder in folders],
        dtype="bfloat16",
    )
    return Case(tmp_path, recipe, PARTED[request.param][1](models))


def cut(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """Cut tensors into chunks of some elements."""
    monkeypatch.setattr(grid, "CHUNK_STEP", elements)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)


def assert_expected(case: Case, folder: Path) -> None:
    """Compare every tensor of an output, bit for bit."""
    actual = read_output(folder)
    assert set(case.expected) == set(actual)
    for name, tensor in case.expected.items():
        assert same_bits(tensor, actual[name]), name


@pytest.mark.parametrize("elements", [None, 1000, 101])
def test_chunks_do_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch, elements: int | None) -> None:
    """Names, shapes, dtypes and bits are those of whole tensors, in one chunk or in many; every byte verifies."""
    if elements:
        cut(monkeypatch, elements)
    merge(case.recipe, case.home / "out", OPTIONS)
    assert_expected(case, case.home / "out")
    verdict = verify(case.home / "out")
    assert () == verdict.damage
    assert verdict.checked_bytes >= sum(tensor.nbytes for tensor in case.expected.values())


def test_workers_and_executor_do_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch, processes: Executor) -> None:
    """One worker, four, a thread that runs the newest first, and processes write the same files, manifest included."""
    cut(monkeypatch, 1000)
    merge(case.recipe, case.home / "one", OPTIONS, RunOptions(workers=1))
    expected = folder_bytes(case.home / "one")
    merge(case.recipe, case.home / "four", OPTIONS, RunOptions(workers=4))
    with Backwards() as backwards:
        merge(case.recipe, case.home / "backwards", OPTIONS, RunOptions(workers=3, executor=backwards))
    merge(case.recipe, case.home / "processes", OPTIONS, RunOptions(workers=2, executor=processes))
    for name in ("four", "backwards", "processes"):
        assert expected == folder_bytes(case.home / name), name


@pytest.mark.parametrize("torn_bytes", [0, 1, 200])
def test_an_interrupted_merge_is_continued(case: Case, monkeypatch: pytest.MonkeyPatch, torn_bytes: int) -> None:
    """No finished chunk is computed again, unless the journal lost one of its outputs; the files are the same."""
    commit_often(monkeypatch)
    monkeypatch.setattr(Budget, "unwritten_bytes", 1)  # every task waits for the commit of the one before
    merge(case.recipe, case.home / "whole", OPTIONS)
    with pytest.raises(InterruptedMergeError):
        merge(case.recipe, case.home / "out", OPTIONS, RunOptions(workers=1), Interrupter(9))
    journal = case.home / ".out.dovetail-partial" / "dovetail_journal"
    journal.write_bytes(journal.read_bytes()[: -torn_bytes or None])
    seen = Interrupter(-1)
    merge(case.recipe, case.home / "out", OPTIONS, listen=seen)
    assert any("Continuing an unfinished merge" in getattr(event, "text", "") for event in seen.seen)
    written = seen.seen[-1].written_bytes  # type: ignore[union-attr]
    assert 0 < written < sum(tensor.nbytes for tensor in case.expected.values())
    assert folder_bytes(case.home / "whole") == folder_bytes(case.home / "out")
    assert_expected(case, case.home / "out")


def test_damage_is_found_in_every_output(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever output's byte is flipped, verification names the tensor, and computing it again finds the bits."""
    cut(monkeypatch, 1000)
    out = case.home / "out"
    manifest = merge(case.recipe, out)
    total = sum(tensor.nbytes for tensor in case.expected.values())
    assert total == recompute(out, 1.0)
    file = out / "model.safetensors"
    sound = file.read_bytes()
    header_bytes = manifest["shards"][0]["header_bytes"]
    plan, offset = make_plan(case.recipe), header_bytes
    for tensor in plan.tensors[:2]:
        data = bytearray(sound)
        data[offset] ^= 1
        offset += tensor.length * tensor.dtype.itemsize
        file.write_bytes(data)
        (damage,) = verify(out).damage
        assert damage.startswith(f"tensor {tensor.name!r} in model.safetensors is damaged between elements 0 and ")
        with pytest.raises(VerificationError, match=f"tensor '{tensor.name}' computed again differs"):
            recompute(out, 1.0)


def test_the_manifest_tells_of_each_output(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest has the chunk edges and checksums of every output, and the problem's statistics with the first."""
    cut(monkeypatch, 1000)
    merge(case.recipe, case.home / "out")
    entries = read_manifest(case.home / "out")["tensors"]
    names = list(entries)
    assert set(case.expected) == set(names)
    for first, second in zip(names[::2], names[1::2], strict=True):
        assert "density" in entries[first]["statistics"]
        assert {"output": 1} == entries[second]["statistics"]
        for name in (first, second):
            edges = entries[name]["chunk_edges"]
            assert (0, case.expected[name].size, sorted(edges)) == (edges[0], edges[-1], edges)
            assert len(edges) == len(entries[name]["checksums"]) + 1


def test_memory_counts_every_output(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection counts a task's inputs and all of its outputs."""
    cut(monkeypatch, 1000)
    plan = make_plan(case.recipe)
    tensor = plan.tensors[0]
    low, high = tensor.program.window(0, 1000)
    written = plan.output_bytes(plan.jobs[0].tasks[0][0])
    ranges = [tensor.output_range(output, 0, 1000) for output in (0, 1)]
    sizes = [plan.tensors[output].dtype.itemsize for output in (0, 1)]
    assert sum((stop - start) * size for (start, stop), size in zip(ranges, sizes, strict=True)) == written
    assert 2 * 2 * (high - low) + written == tensor.held_bytes(0, 1000)
    assert sum(each.nbytes for each in case.expected.values()) == sum(
        plan.output_bytes(piece) for job in plan.jobs for task in job.tasks for piece in task
    )


def _twice(problem: Any) -> tuple[Output, ...]:
    return (Output("same", problem.shape), Output(f"{problem.name}.rest", (0,)))


def _with_outputs(monkeypatch: pytest.MonkeyPatch, name: str, outputs: Callable[[Any], tuple[Output, ...]]) -> None:
    monkeypatch.setitem(METHODS, name, dataclasses.replace(PARTED[name][0], outputs=outputs))


def test_what_cannot_be_planned(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr is refused with advice; two outputs of one name and chunks with a gap between them are refused too."""
    with pytest.raises(RecipeError, match=r"is zarr; expected one of safetensors.*; merge to one of these"):
        make_plan(case.recipe, PlanOptions(ZarrFormat()))
    name = METHODS["halves"].name
    method = make_plan(case.recipe).method.name
    _with_outputs(monkeypatch, method, _twice)
    with pytest.raises(RecipeError, match=f"{method} gives tensor 'same' twice"):
        make_plan(case.recipe)
    if method == name:
        monkeypatch.setitem(METHODS, name, PARTED[name][0])
        monkeypatch.setattr(Halves, "output_range", lambda self, output, start, stop: (start, stop))
        with pytest.raises(AssertionError, match=r"the chunks of .*\.upper give \d+ of \d+ elements"):
            make_plan(case.recipe)


def test_other_plans_are_as_before(tmp_path: Path) -> None:
    """Tensors of methods with one output are their own domain, and their manifest entries have no edges."""
    base = llama_tensors(0)
    folder = write_checkpoint(tmp_path / "model", base)
    recipe = write_recipe(
        tmp_path / "r.yml", merge_method="linear", models=[{"model": str(folder), "parameters": {"weight": 1}}]
    )
    merge(recipe, tmp_path / "out")
    for name, entry in read_manifest(tmp_path / "out")["tensors"].items():
        assert "chunk_edges" not in entry
        assert "output" not in entry["statistics"]
        assert np.prod(entry["shape"]) == base[name].size


def test_forged_edges(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest with chunk edges that do not cover the tensor exactly once is reported as damaged."""
    manifest = merge(case.recipe, case.home / "out")
    name = next(iter(read_manifest(case.home / "out")["tensors"]))
    forged = read_manifest(case.home / "out")
    monkeypatch.setattr("dovetail.engine.actions.verify.read_manifest", lambda output: forged)
    assert manifest["totals"] == forged["totals"]
    assert () == verify(case.home / "out").damage
    edges: Any
    for edges in ([], [0], [0, 5, 3], [1, 9], [0, 9.0], "05", {}, [0, 10**30]):
        forged["tensors"][name]["chunk_edges"] = edges
        with pytest.raises(VerificationError, match="is damaged"):
            verify(case.home / "out")

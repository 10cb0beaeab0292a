"""Nothing but recipe, options and inputs decides a byte of the output: not workers, memory, executor or order."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run import prepare
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.output import SafetensorsFormat
from tests.checkpoints import cabs_recipe, folder_bytes, read_output
from tests.engine.awkward import base_tensors, same_bits, tuned_tensors, write_family
from tests.engine.command import dovetail

KINDS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "shared": {"overlap": "minimize", "consensus": "ties"},
    "whole tensors": {"balanced": False},
}
"""Options with and without reduce passes."""


@pytest.fixture(autouse=True)
def _many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors into chunks of 100 elements."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 100)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)


@pytest.fixture(params=KINDS)
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Make a family of three in bfloat16 and a recipe."""
    base = base_tensors("bfloat16")
    folder, folders = write_family(
        tmp_path, base, [tuned_tensors(base, seed, "bfloat16") for seed in range(3)], shards=2
    )
    parameters = {"n": 7, "m": 24, "weight": 0.9, **KINDS[request.param]}
    return cabs_recipe(tmp_path / "recipe.yml", folder, folders, parameters=parameters)


def test_workers_do_not_matter(recipe: Path) -> None:
    """1, 2, 4 and 16 workers write the same files, manifest and model card included."""
    home = recipe.parent
    for workers in (1, 2, 4, 16):
        merge(recipe, home / f"out{workers}", PlanOptions(SafetensorsFormat(2000)), RunOptions(2**40, workers))
    expected = folder_bytes(home / "out1")
    assert {"dovetail_manifest.json", "README.md", "model.safetensors.index.json"} < set(expected)
    for workers in (2, 4, 16):
        assert expected == folder_bytes(home / f"out{workers}")


def test_the_memory_limit_does_not_matter(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MiB, 512 MiB and 2 GiB, which allow for different numbers of workers, give the same files."""
    # What other tests have loaded into this process is none of the merge's doing.
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)
    home, workers = recipe.parent, set()
    for limit in ("300MiB", "512MiB", "2GiB"):
        outcome = dovetail("merge", recipe, home / limit, "--memory", limit, "--workers", "32", "--json")
        workers.add(outcome.events[-1]["workers"])
    assert len(workers) > 1
    assert folder_bytes(home / "300MiB") == folder_bytes(home / "512MiB") == folder_bytes(home / "2GiB")


class Backwards(Executor):
    """An executor with one thread that runs the newest task first, so that tasks do not end in the given order."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._stack: list[tuple[Future[Any], Any, Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._stack.append((future, fn, args))
        self._pool.submit(self._run_newest)
        return future

    def _run_newest(self) -> None:
        future, fn, args = self._stack.pop()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(fn(*args))
        except BaseException as error:
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


def test_the_executor_does_not_matter(recipe: Path, processes: Executor) -> None:
    """Threads, processes, and a thread that runs everything in another order give the same files."""
    home = recipe.parent
    merge(recipe, home / "default", PlanOptions(SafetensorsFormat(2000)), RunOptions(workers=2))
    with ThreadPoolExecutor(3) as threads, Backwards() as backwards:
        for name, executor in (("threads", threads), ("processes", processes), ("backwards", backwards)):
            merge(recipe, home / name, PlanOptions(SafetensorsFormat(2000)), RunOptions(workers=2, executor=executor))
            assert folder_bytes(home / "default") == folder_bytes(home / name), name


REDUCING: dict[str, tuple[str, dict[str, Any], int]] = {
    "sums by rank and scales": ("ties", {"density": 0.4, "weight": 0.7, "rescale": True}, 3),
    "variances and weights": ("sce", {"select_topk": 0.3}, 3),
    "counts": ("ramplus_tl", {}, 3),
    "quartiles": ("arcee_fusion", {}, 1),
    "dot products": ("karcher", {}, 3),
    "singular vectors": ("tsv_m", {}, 3),
    "sums of matrices": ("iso_c", {}, 3),
    "dot products by column": ("nuslerp", {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True}, 2),
}
"""Every kind of partial result: method, parameters, number of models."""


@pytest.mark.parametrize("kind", REDUCING)
def test_the_order_of_completion_does_not_matter(tmp_path: Path, processes: Executor, kind: str) -> None:
    """One worker, processes, and a thread that runs the newest task first fold partial results to the same bits."""
    method, parameters, count = REDUCING[kind]
    base = base_tensors("bfloat16")
    folder, folders = write_family(tmp_path, base, [tuned_tensors(base, seed, "bfloat16") for seed in range(count)])
    recipe = cabs_recipe(tmp_path / "recipe.yml", folder, folders, merge_method=method, parameters=parameters)
    assert any(plan.reduce_passes(job) for plan in [make_plan(recipe)] for job in plan.jobs)
    merge(recipe, tmp_path / "one", run=RunOptions(workers=1))
    with Backwards() as backwards:
        merge(recipe, tmp_path / "backwards", run=RunOptions(workers=4, executor=backwards))
    merge(recipe, tmp_path / "processes", run=RunOptions(workers=2, executor=processes))
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "backwards")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "processes")


def test_an_error_in_another_process_arrives_whole(tmp_path: Path, processes: Executor) -> None:
    """NaN that a worker process finds gives the same error as NaN that a thread finds."""
    base = base_tensors("bfloat16")
    model = tuned_tensors(base, 0, "bfloat16")
    model["model.norm.weight"][60] = np.nan
    folder, folders = write_family(tmp_path, base, [model])
    recipe = cabs_recipe(tmp_path / "recipe.yml", folder, folders)
    text = rf"^{folders[0]}: tensor 'model.norm.weight' holds nan at element 60; expected finite numbers; repair"
    with pytest.raises(ValueError, match=text):
        merge(recipe, tmp_path / "out", run=RunOptions(workers=2, executor=processes))
    assert not (tmp_path / "out").exists()


def test_shards_do_not_matter(recipe: Path) -> None:
    """One file or many hold the same tensors, and each tensor's statistics and checksums are the same."""
    home = recipe.parent
    merge(recipe, home / "single")
    merge(recipe, home / "sharded", PlanOptions(SafetensorsFormat(700)))
    single, sharded = read_manifest(home / "single"), read_manifest(home / "sharded")
    assert ["model.safetensors"] == [path.name for path in (home / "single").glob("*.safetensors")]
    assert len(list((home / "sharded").glob("*.safetensors"))) > 4
    expected, actual = read_output(home / "single"), read_output(home / "sharded")
    assert set(expected) == set(actual)
    for name in expected:
        assert same_bits(expected[name], actual[name])
        for key in ("checksums", "statistics"):
            assert single["tensors"][name][key] == sharded["tensors"][name][key]


def test_the_inputs_files_do_not_matter(tmp_path: Path) -> None:
    """The same tensors in one file, in shards, or given as a file instead of a folder make the same weights."""
    base = base_tensors("bfloat16")
    models = [tuned_tensors(base, seed, "bfloat16") for seed in range(2)]
    one, ones = write_family(tmp_path / "one", base, models)
    many, manys = write_family(tmp_path / "many", base, models, shards=3)
    merge(cabs_recipe(tmp_path / "one.yml", one, ones), tmp_path / "from-one")
    merge(cabs_recipe(tmp_path / "many.yml", many, manys), tmp_path / "from-many")
    files = [folder / "model.safetensors" for folder in (one, *ones)]
    merge(cabs_recipe(tmp_path / "file.yml", files[0], files[1:]), tmp_path / "from-files")
    expected = read_output(tmp_path / "from-one")
    for other in ("from-many", "from-files"):
        actual = read_output(tmp_path / other)
        assert set(expected) == set(actual)
        assert all(same_bits(expected[name], actual[name]) for name in expected)
    # A file has no folder from which a configuration could be taken.
    names = ["README.md", "dovetail_inputs.json", "dovetail_manifest.json", "dovetail_recipe.yml", "model.safetensors"]
    assert names == sorted(path.name for path in (tmp_path / "from-files").iterdir())

"""Killing merges and conversions at random instants and resuming them, for tests/test_crash.py and bench/crash.py.

Each attempt is a forked process, which starts at once. Between attempts, everything that the journal does not list is
overwritten with garbage, as a power failure might do, so that a merge can rely only on what was journalled.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine.actions.convert import convert, plan_conversion
from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.vectors import make_vectors, store_options
from dovetail.engine.output.staging import staging_path
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.storing import plan_store
from dovetail.engine.run import commit
from dovetail.engine.run.journal import JOURNAL_NAME, Journal
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from dovetail.io.zarr import layout as zarr_layout
from dovetail.io.zarr.layout import PlacedArray
from dovetail.io.zarr.vectors import VALUES_CODEC
from tests.checkpoints import llama_tensors, write_checkpoint, write_recipe

OPTIONS = PlanOptions(SafetensorsFormat(100_000))
CONVERSION = PlanOptions(SafetensorsFormat(50_000), dtype="float16")


@dataclass(frozen=True, slots=True)
class CrashCase:
    """A merge, a conversion, or the making of a store, that is killed."""

    name: str
    content: dict[str, Any]
    """The recipe's; empty for a conversion of the base model to float16."""
    workers: int
    options: PlanOptions = OPTIONS
    vectors: str = ""
    """``make`` for the making of a store, ``use`` for a merge from one; else empty."""

    def run(self, subject: Path, output: Path) -> None:
        """Merge as the recipe `subject` says, store what its models keep, or convert the checkpoint that it is."""
        if self.vectors == "make":
            make_vectors(subject, output, self.options, RunOptions(workers=self.workers))
        elif self.content:
            merge(subject, output, self.options, RunOptions(workers=self.workers))
        else:
            convert(subject, output, self.options, RunOptions(workers=self.workers))

    def plan(self, subject: Path) -> Plan:
        """Plan what `run` does."""
        if self.vectors == "make":
            return plan_store(subject, store_options(self.options, VALUES_CODEC)).plan
        return make_plan(subject, self.options) if self.content else plan_conversion(str(subject), self.options)


def cases() -> Iterator[CrashCase]:
    """Give merges by methods of one pass and of several, with one worker and with several."""
    parameters: dict[str, dict[str, Any]] = {
        "cabs": {"merge_method": "cabs", "parameters": {"n": 8, "m": 32, "weight": 0.7}},
        "cabs-minimize": {
            "merge_method": "cabs",
            "parameters": {"n": 24, "m": 32, "weight": 0.7, "overlap": "minimize", "consensus": "ties"},
        },
        "cabs-magnitude": {
            "merge_method": "cabs",
            "parameters": {"n": 1, "m": 4, "weight": 0.7, "balanced": False},
        },
        "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.4}},
    }
    for name, content in parameters.items():
        for workers in (1, 3):
            yield CrashCase(f"{name}-{workers}", content, workers)
    yield CrashCase("cabs-zarr", parameters["cabs"], 1, PlanOptions(ZarrFormat()))
    yield CrashCase("magnitude-shards", parameters["cabs-magnitude"], 3, PlanOptions(ZarrFormat("blosc", 6_000)))
    yield CrashCase("vectors", parameters["cabs"], 3, vectors="make")
    yield CrashCase("from-vectors", parameters["cabs-minimize"], 2, vectors="use")
    yield CrashCase("conversion", {}, 2, CONVERSION)
    yield CrashCase("conversion-zarr", {}, 2, PlanOptions(dtype="float16", format=ZarrFormat()))


def prepare(folder: Path, case: CrashCase) -> tuple[Path, dict[str, bytes]]:
    """Write models and the recipe; give the arguments of `CrashCase.run`, and the files of an uninterrupted run."""
    base = llama_tensors(0, layers=4)
    write_checkpoint(folder / "base", base)
    for number in (1, 2):
        write_checkpoint(folder / f"model{number}", llama_tensors(number, base, layers=4))
    if not case.content:
        case.run(folder / "base", folder / "expected")
        return folder / "base", tree_bytes(folder / "expected")
    models = [{"model": str(folder / f"model{number}")} for number in (1, 2)]
    recipe = write_recipe(folder / "recipe.yml", **case.content, base_model=str(folder / "base"), models=models)
    if case.vectors == "use":
        make_vectors(recipe, folder / "store")
        recipe.write_text(f"{recipe.read_text()}vectors: {folder / 'store'}\n")
    case.run(recipe, folder / "expected")
    return recipe, tree_bytes(folder / "expected")


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def small_tasks() -> None:
    """Cut tensors into many tasks, and commit them in small groups, in this process."""
    grid.TASK_BYTES, grid.CHUNK_STEP, grid.BATCH_PIECES = 8192, 1024, 2
    commit.GROUP_BYTES, commit.GROUP_SECONDS = 4096, 0.001
    zarr_layout.INNER_BYTES, zarr_layout._STEP_ELEMENTS = 1024, 64


def attempt(case: CrashCase, subject: Path, output: Path, delay_seconds: float) -> bool:
    """Run a case in a forked process and kill it after a while; return whether it was killed in time."""
    return killed_after(delay_seconds, lambda: case.run(subject, output))


def killed_after(delay_seconds: float, run: Callable[[], object]) -> bool:
    """Call a function in a forked process and kill that after a while; return whether it was killed in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + delay_seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert 0 == status, "an attempt failed by itself"
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, "an attempt failed by itself"
    return os.WIFSIGNALED(status)


def scribble(plan: Plan, output: Path) -> int:
    """Overwrite every chunk of an unfinished output that its journal does not list; return how many it lists."""
    staging = staging_path(output)
    journal = staging / JOURNAL_NAME
    if not journal.exists() or b"\n" not in journal.read_bytes():
        return 0
    table = RecordTable(plan)
    Journal(journal, plan, table).close()
    scribble_chunks(plan, staging, table)
    return int(table.rows["done"].sum())


def scribble_chunks(plan: Plan, staging: Path, table: RecordTable) -> None:
    """Overwrite every chunk that a table does not have as done."""
    for index, placed in enumerate(plan.layout.tensors):
        path = staging / plan.layout.shards[placed.shard].file_name
        if isinstance(placed, PlacedArray) and path.is_dir():
            _scribble_array(path, plan, placed, table)
        elif path.is_file() and path.stat().st_size == plan.layout.shards[placed.shard].size_bytes:
            with path.open("r+b") as file:
                _scribble_tensor(file, plan, index, table)


def _scribble_array(folder: Path, plan: Plan, placed: PlacedArray, table: RecordTable) -> None:
    for chunk in range(plan.tensors[placed.shard].chunk_count if placed.length else 0):
        if not table.is_done(placed.shard, chunk):
            start, _ = plan.tensors[placed.shard].chunk_range(chunk)
            (folder / ".".join(("c", *map(str, placed.objects.find(start))))).write_bytes(b"\xaa" * 7)


def _scribble_tensor(file: Any, plan: Plan, index: int, table: RecordTable) -> None:
    tensor, placed = plan.tensors[index], plan.layout.tensors[index]
    for chunk, start in enumerate(range(0, tensor.length, tensor.chunking.chunk_elements)):
        if not table.is_done(index, chunk):
            stop = min(tensor.length, start + tensor.chunking.chunk_elements)
            file.seek(placed.offset_bytes + start * tensor.dtype.itemsize)
            file.write(b"\xaa" * ((stop - start) * tensor.dtype.itemsize))


def spread(chance: random.Random, count: int) -> Iterator[float]:
    """Draw numbers from 0 to 1 without end, of which every `count` lie one in each of as many equal parts."""
    while True:
        yield from chance.sample([(part + chance.random()) / count for part in range(count)], count)


def kill_until_done(folder: Path, case: CrashCase, kills: int, seed: int) -> tuple[int, int]:
    """Merge again and again, killing most attempts, until so many kills have happened; check every result.

    Returns
    -------
    int
        Kills.
    int
        Of these, those that left a journal with finished chunks, from which the next attempt continued.

    """
    small_tasks()
    subject, expected = prepare(folder, case)
    plan = case.plan(subject)
    shares = spread(random.Random(seed), kills)
    output, killed, continued = folder / "out", 0, 0
    began = time.monotonic()
    assert not attempt(case, subject, output, math.inf)
    duration = time.monotonic() - began
    shutil.rmtree(output)
    while killed < kills:
        began = time.monotonic()
        if attempt(case, subject, output, next(shares) * 1.1 * duration):
            killed += 1
            if not output.exists():
                if scribble(plan, output):
                    continued += 1
                else:  # on a busy machine it may take long until anything is safe
                    duration *= 1.25
                continue
        else:
            duration = 0.8 * duration + 0.2 * (time.monotonic() - began)
        # What stands under the final name is whole, however the process ended.
        found = tree_bytes(output)
        assert expected == {name: found[name] for name in found if name in expected}
        assert set(found) - set(expected) <= {JOURNAL_NAME, "dovetail_lock"}
        shutil.rmtree(output)
    return killed, continued

"""What a pass has decided is held for the apply pass where the memory limit has room, and changes no byte."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dovetail.engine import RunOptions, merge
from dovetail.engine.methods import row_marks
from dovetail.engine.methods.program import Holding
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run import prepare
from tests.checkpoints import folder_bytes, write_checkpoint
from tests.engine.kernels.cases import JITTED

CHUNK = 1 << 16
SHAPES: dict[str, tuple[int, ...]] = {
    "rows": (40, 5_000),
    "columns": (5_000, 40),
    "vector": (130_000,),
    "small": (3, 7),
}
"""Tensors; the vector is too long a row for the kernel that marks rows."""
METHODS = ("della", "dare_linear")

pytestmark = pytest.mark.skipif(not JITTED, reason="hundreds of thousands of elements take minutes in plain Python")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Write two fine-tunes with tensors of several chunks, whose rows end anywhere; give a recipe by its method."""
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    random, names = np.random.default_rng(0), ("base", "one", "two")
    tensors = {name: random.standard_normal(shape) * 0.02 for name, shape in SHAPES.items()}
    for name in names:
        changed = {key: value + random.standard_t(3, value.shape) * 1e-3 for key, value in tensors.items()}
        write_checkpoint(tmp_path / name, {key: value.astype(ml_dtypes.bfloat16) for key, value in changed.items()})

    def make(method: str) -> dict[str, Any]:
        models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.7, "density": 0.5}} for name in names[1:]]
        return {"merge_method": method, "base_model": str(tmp_path / "base"), "models": models}

    return make


def roomless(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the least limit for one worker and four open jobs, which has no room for anything else."""
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 << 20)
    budget, _ = prepare.prepare(plan, RunOptions(2**40, workers=1))
    return replace(budget, held_bytes=0).projected_bytes


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_decided_twice_and_the_bytes_are_the_same(
    method: str, recipe: Callable[[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room, every element is marked once; without, outputs and manifests have the same bytes."""
    marked: list[int] = []
    mark_blocks = row_marks.mark_blocks

    def counting(sources: Any, codes: Any, keeps: Any, places: Any, *others: Any) -> None:
        marked.extend(places[:, 1] - places[:, 0])
        mark_blocks(sources, codes, keeps, places, *others)

    monkeypatch.setattr(row_marks, "mark_blocks", counting)
    monkeypatch.setattr(prepare, "warm_up", lambda *_: None)  # which marks elements of its own
    merge(recipe(method), tmp_path / "roomy", run=RunOptions(memory="2GiB", workers=2))
    short = {name for name in SHAPES if method == "dare_linear" or name != "vector"}
    assert sum(prod(SHAPES[name]) for name in short) == sum(marked)
    limit = roomless(make_plan(recipe(method)), monkeypatch)
    merge(recipe(method), tmp_path / "tight", run=RunOptions(limit, workers=1))
    assert folder_bytes(tmp_path / "roomy") == folder_bytes(tmp_path / "tight")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_held_is_within_the_projection(
    method: str, recipe: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for all jobs, each may hold as much as the largest needs; a byte less, and that one holds nothing."""
    plan = make_plan(recipe(method))
    sizes = [plan.held_bytes(job) for job in plan.jobs]
    most, least = max(sizes), roomless(plan, monkeypatch)
    budget, _ = prepare.prepare(plan, RunOptions(least + 4 * most, workers=1))
    assert most == budget.held_bytes
    assert least + 4 * most == budget.projected_bytes
    budget, _ = prepare.prepare(plan, RunOptions(least + 4 * most - 1, workers=1))
    assert max(size for size in sizes if size < most) == budget.held_bytes
    budget, _ = prepare.prepare(plan, RunOptions(least, workers=1))
    assert 0 == budget.held_bytes


@pytest.mark.parametrize("name", ["rows", "columns", "vector"])
def test_a_chunk_is_given_its_own_marks(name: str, recipe: Callable[[str], dict[str, Any]]) -> None:
    """What is held of a tensor is a bit for each element and model; a task gets those of the blocks that it touches."""
    [tensor] = [each for each in make_plan(recipe("dare_ties")).tensors if each.name == name]
    assert isinstance(tensor.program, Holding)
    blocks, line = -(-tensor.length // CHUNK), CHUNK // 8
    assert 2 * blocks * line == tensor.program.held_bytes(tensor.chunking.chunk_elements, tensor.chunk_count)
    bits = np.arange(2 * blocks * line, dtype=np.uint8).reshape(blocks, 2, line)
    held = tuple(row_marks.HeldMarks(place, bits[place : place + 1]) for place in range(blocks))
    program: Any = tensor.program
    state = replace(program._nothing, held=held)
    for start, stop in map(tensor.chunk_range, range(tensor.chunk_count)):
        part = program.part(state, start, stop)
        assert [start // CHUNK] == [each.first for each in part.held]
        assert len(pickle.dumps(part)) < 2 * line + 2_000

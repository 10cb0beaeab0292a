"""The pool of decoded chunks gets the memory that the limit leaves over, and a warning says if that is too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine import events
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.chunk_sharing import share_memory
from dovetail.io.zarr.chunk_pool import DEFAULT_POOL_BYTES
from tests.checkpoints import BF16, cabs_recipe
from tests.engine.conftest import Family
from tests.io.zarr_files import write_t5x

MIB = 2**20


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plan a merge of two Zarr models with chunks of a quarter of the rows and of the columns."""
    monkeypatch.setattr(grid, "TASK_BYTES", 64 << 10)
    monkeypatch.setattr(grid, "LEAST_TASK_BYTES", 64 << 10)
    monkeypatch.setattr(grid, "CHUNK_STEP", 1024)
    for name in ("base", "tuned"):
        write_t5x(tmp_path / name, {"w": np.zeros((1024, 512), BF16)}, rows=256, columns=128)
    return make_plan(cabs_recipe(tmp_path / "r.yml", tmp_path / "base", [tmp_path / "tuned"]))


def share(plan: Plan, allowed_mib: int) -> tuple[Budget, list[str]]:
    """Choose the pool's size under a limit; give the budget with it, and the warnings."""
    said: list[str] = []
    budget = Budget(allowed_mib * MIB, 100 * MIB, 1 * MIB, 1)

    def listen(event: events.Event) -> None:
        assert isinstance(event, events.Notice)
        said.append(event.text)

    return replace(budget, shared_bytes=share_memory(plan, budget, listen)), said


def test_room_is_used(plan: Plan) -> None:
    """If there is enough memory, the pool holds the chunks that neighbouring tasks share, without a warning."""
    budget, said = share(plan, 400)
    assert DEFAULT_POOL_BYTES == budget.shared_bytes
    assert budget.projected_bytes <= budget.allowed_bytes
    assert [] == said


def test_want_of_room_is_told(plan: Plan) -> None:
    """If there is no room, a warning says how often chunks are decoded, and which limit would avoid that."""
    budget, said = share(plan, 111)
    assert 0 == budget.shared_bytes
    (text,) = said
    assert text.startswith("Chunks of w do not hold whole rows: each is decoded about 13 times. A memory limit of ")


def test_mapped_inputs_need_no_pool(family: Family) -> None:
    """Safetensors inputs have no chunks to decode, and so get no pool."""
    budget, said = share(make_plan(family.recipe_path), 400)
    assert (0, []) == (budget.shared_bytes, said)

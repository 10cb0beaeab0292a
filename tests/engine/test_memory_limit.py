"""Peak resident memory of a merge in a process of its own, pages of memory-mapped files included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.synthetic import SIZES, make_checkpoint
from tests.checkpoints import cabs_recipe
from tests.engine.command import COMMAND

MIB = 2**20

MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
sys.exit(done.returncode)
"""
"""Runs a command and prints its peak memory. A child's figure begins with its parent's, so the parent must be small."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base model and two fine-tunes of 200 MB each, Llama-shaped, in bfloat16."""
    home = tmp_path_factory.mktemp("models")
    for index, name in enumerate(("base", "math", "code")):
        make_checkpoint(home / name, SIZES["0.2GB"], index, max_shard_bytes=90 * 10**6, pool_elements=1 << 20)
    return home


@pytest.mark.parametrize(
    ("parameters", "limit_mib"),
    [
        ({}, 300),
        ({"overlap": "minimize", "consensus": "ties"}, 300),
        ({"balanced": False}, 300),
        ({}, 512),
    ],
    ids=["blocks in 300 MiB", "shared in 300 MiB", "whole tensors in 300 MiB", "blocks in 512 MiB"],
)
def test_peak_memory_stays_below_the_limit(
    models: Path, tmp_path: Path, parameters: dict[str, Any], limit_mib: int
) -> None:
    """600 MB of models are merged within the limit, below even the plan's projection, by the kernel's own count."""
    recipe = cabs_recipe(
        tmp_path / "recipe.yml",
        models / "base",
        [models / "math", models / "code"],
        parameters={"n": 64, "m": 256, "weight": 0.8, **parameters},
    )
    command = [*COMMAND, "merge", recipe, tmp_path / "out", "--memory", f"{limit_mib}MiB", "--json"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    begun = next(event for event in seen if event["event"] == "started")
    peak_bytes = int(done.stderr.splitlines()[-1])
    assert begun["read_bytes"] >= 600 * 10**6
    assert limit_mib * MIB == begun["allowed_bytes"]
    assert begun["projected_bytes"] <= begun["allowed_bytes"]
    assert peak_bytes <= begun["projected_bytes"], f"{peak_bytes / MIB:.1f} MiB, {begun}"
    # What the merge itself reports is the same measurement.
    assert pytest.approx(peak_bytes, abs=8 * MIB) == seen[-1]["peak_resident_bytes"]
    resident = [event["resident_bytes"] for event in seen if event["event"] == "progress"]
    assert max(resident) <= peak_bytes

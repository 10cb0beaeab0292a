"""Whatever call of the operating system fails, and wherever a command is killed or interrupted, nothing is lost.

This is a sample of what `bench/faults.py` tries.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.paused import HOME
from tests.faults.preload import compiler
from tests.pace import HANGS_S

SCENARIOS = ("overwrite", "stages", "to-zarr")
SAMPLE = 4


def test_a_sample_of_all_calls(tmp_path: Path) -> None:
    """A struck command finishes or says in one line why not, and then the same command ends with the same bytes."""
    if compiler() is None:
        pytest.skip("there is no C compiler to build the library that strikes calls with")
    options = ["--scenarios", *SCENARIOS, "--sample", str(SAMPLE), "--work", str(tmp_path)]
    command = [sys.executable, "-m", "bench.faults", *options]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("all "))
    assert len(SCENARIOS) * (SAMPLE - 1) <= sum(int(count) for count in row.split()[1:4]), "most calls were reached"

"""Damaged Zarr chunks of every codec never kill the process, and never take more memory than a good chunk may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = 1_500
"""Chunks that are damaged; ``python -m tests.chunk_fuzz`` damages as many as one likes, by other seeds."""


def test_damaged_chunks(tmp_path: Path) -> None:
    """Of each comes an error of our tree, or a chunk of the right shape; the case that kills the driver is shown."""
    case = tmp_path / "case.json"
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.chunk_fuzz", "1", str(CASES), str(case)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    told = ended.stderr[-2_000:] + (case.read_text()[:2_000] if case.exists() else "")
    assert 0 == ended.returncode, told
    words = ended.stdout.split()
    assert CASES == int(words[0]) + int(words[2])
    assert int(words[0]) > CASES // 20, "the damage is such that some chunks still decode"
    assert int(words[2]) > CASES // 2

"""Whole commands on a file system without locks: a library that is loaded before all others refuses every lock."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.faults.preload import compiler

SILENT = 0
"""In place of the number of an error: the lock's server does not answer."""

REFUSALS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks say."""

_SOURCE = Path(__file__).with_name("no_locks.c")


def build(folder: Path) -> Path:
    """Compile the library into a folder; give its file."""
    library, found = folder / "no_locks.so", compiler()
    assert found is not None, "there is no C compiler"
    subprocess.run([found, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE], check=True)
    return library


def begin(library: Path, error: int, arguments: Sequence[str | Path]) -> subprocess.Popen[str]:
    """Start a command of Dovetail whose locks are all refused, or never answered."""
    command = [str(Path(sys.executable).with_name("dovetail")), *map(str, arguments)]
    environment = os.environ | {"LD_PRELOAD": str(library), "DOVETAIL_FLOCK": str(error)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

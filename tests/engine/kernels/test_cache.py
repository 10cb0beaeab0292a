"""Compiled kernels are kept in a folder of ours; what other packages compile is kept where numba keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOREIGN = """
from numba import njit

@njit(cache=True)
def twice(value):
    return 2 * value
"""

SCRIPT = """
from dovetail.engine.kernels import cache, compare
from dovetail.io.adapters import kernels as adapters
import foreign

print(foreign.twice(21))
print(foreign.twice._cache.cache_path)
print(compare.compare._cache.cache_path)
print(adapters.add_product._cache.cache_path)
print(cache.FOLDER)
"""


def run(folder: Path, **environment: str) -> list[str]:
    """Compile a function of another package in a process that has our kernels; give what the script prints."""
    (folder / "foreign.py").write_text(FOREIGN)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**inherited, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_other_packages_keep_their_place(tmp_path: Path) -> None:
    """A foreign function is kept beside its file, as without us; our kernels in the user's cache folder."""
    value, foreign, *ours, folder = run(tmp_path)
    assert ("42", str(tmp_path / "__pycache__")) == (value, foreign)
    assert 1 == len(list((tmp_path / "__pycache__").glob("foreign.twice-*.nbi")))
    assert Path(folder).parent == tmp_path / "cache" / "dovetail"
    assert [Path(folder)] * 2 == [Path(path).parent for path in ours]


def test_the_folder_that_the_user_names(tmp_path: Path) -> None:
    """``NUMBA_CACHE_DIR`` holds for everything, ours included; child processes are told of our folder by it."""
    _, foreign, *ours, folder = run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "named"))
    assert str(tmp_path / "named") == folder
    assert [Path(folder)] * 3 == [Path(path).parent for path in (foreign, *ours)]

"""Compiled kernels are kept in a folder of ours; what other packages compile is kept where numba keeps it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching

from dovetail.engine.kernels import cache, sums

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

COMPILED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from numba.core import caching

from dovetail.engine.kernels import cache, sums

assert sums.__file__.startswith(sys.argv[1])
sums.sum_squares(np.ones(4, np.float32))
print(sums.sum_squares._cache.cache_path)
"""

LOADED = """
import sys
import numpy as np

from dovetail.engine.kernels import sums

compilers = {"numba.np.arrayobj", "numba.np.arraymath", "scipy.linalg"} & set(sys.modules)
print(sums.sum_squares(np.arange(5, dtype=np.float32)), sorted(compilers))
"""

COMPILES_AFTER = """
import numpy as np
from numba import njit

import foreign
from dovetail.engine.kernels import sums

before = sums.sum_squares(np.arange(5, dtype=np.float32))
print(before, foreign.twice(21), njit(lambda a: np.sort(a))(np.array([2, 1])))
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
    assert [] == list((tmp_path / "cache").rglob("*.nbi"))  # ours need no index
    assert Path(folder).parent == tmp_path / "cache" / "dovetail"
    assert [Path(folder)] * 2 == [Path(path).parent for path in ours]


def test_the_folder_that_the_user_names(tmp_path: Path) -> None:
    """``NUMBA_CACHE_DIR`` holds for everything, ours included; child processes are told of our folder by it."""
    _, foreign, *ours, folder = run(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "named"))
    assert str(tmp_path / "named") == folder
    assert [Path(folder)] * 3 == [Path(path).parent for path in (foreign, *ours)]


def test_the_same_sources_share_what_is_compiled(tmp_path: Path) -> None:
    """Kernels that are installed in two places are compiled once; with another source, they are compiled again."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment = {**inherited, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    folders, files = [], []
    for name in ("first", "second", "changed"):
        kernels = tmp_path / name / "dovetail" / "engine" / "kernels"
        shutil.copytree(Path(sums.__file__).parent, kernels)
        (kernels.parents[1] / "__init__.py").touch()
        (kernels.parent / "__init__.py").touch()
        if name == "changed":
            with (kernels / "bits.py").open("a") as source:
                source.write("# changed\n")
        command = [sys.executable, "-c", COMPILED, str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        folders.append(done.stdout)
        files.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.nbc")})
    assert folders[0] == folders[1] != folders[2]
    assert {} != files[0] == files[1]
    assert len(files[2]) > len(files[1])


def test_two_signatures_compiled_at_once_stay_apart(tmp_path: Path) -> None:
    """Processes that save code for two signatures at the same time, each unaware of the other, exchange no code."""
    folder = Path(cache.FOLDER) / f"test-{tmp_path.name}"
    folder.mkdir()
    try:
        first, second, third = (
            caching.IndexDataCacheFile(str(folder), "kernel-1.py311", f"{cache.SOURCES} file") for _ in range(3)
        )
        write = first._save_data

        def write_late(name: str, code: str) -> None:
            assert third.load(("int64",)) is None
            second.save(("float64",), "code for float64")
            write(name, code)

        first._save_data = write_late
        first.save(("int64",), "code for int64")
        assert third.load(("float64",)) == "code for float64"
        assert third.load(("int64",)) == "code for int64"
    finally:
        shutil.rmtree(folder)


def test_loading_leaves_the_compiler_alone() -> None:
    """A kernel that another process has compiled is loaded without the parts of numba that compile, and runs."""
    sums.sum_squares(np.arange(5, dtype=np.float32))
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert "30.0 []\n" == done.stdout


def test_other_functions_compile_after_loaded_kernels(tmp_path: Path) -> None:
    """Kernels of ours that were loaded without the compiler keep no others from being compiled."""
    (tmp_path / "foreign.py").write_text(FOREIGN)
    done = subprocess.run(
        [sys.executable, "-c", COMPILES_AFTER],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "30.0 42 [1 2]\n" == done.stdout


@pytest.mark.parametrize("content", [b"", b"\x80\x05", b"cos\nmissing\n.", b"not a pickle"])
def test_code_that_was_cut_short_is_compiled_anew(tmp_path: Path, content: bytes) -> None:
    """A file that a crash left empty or damaged counts as none, and is replaced."""
    folder = Path(cache.FOLDER) / f"test-{tmp_path.name}"
    folder.mkdir()
    try:
        file = caching.IndexDataCacheFile(str(folder), "kernel-1.py311", f"{cache.SOURCES} file")
        file.save(("int64",), "code")
        [path] = folder.glob("*.nbc")
        path.write_bytes(content)
        assert file.load(("int64",)) is None
        file.save(("int64",), "code")
        assert file.load(("int64",)) == "code"
    finally:
        shutil.rmtree(folder)

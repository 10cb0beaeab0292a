"""The wheel holds all that the tree does, and what is installed from it works where there is no tree."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.packaging import ROOT, build_wheel, install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside the libraries of this environment; give the interpreter that sees both."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment")


def test_wheel_holds_the_tree(wheel: Path) -> None:
    """Every module and data file of the two folders is in the wheel, under ``dovetail/``, and nothing else is."""
    tree = {
        f"dovetail/{path.relative_to(ROOT)}"
        for top in ("engine", "io")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc")
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert tree == packed


@pytest.mark.slow
def test_installed_command_runs_the_demonstration(python: Path, tmp_path: Path) -> None:
    """From elsewhere, with no source tree in sight, ``dovetail demo`` makes, merges and checks its checkpoints."""
    code = "import dovetail.engine, dovetail.io; print(dovetail.engine.__file__); print(dovetail.io.__file__)"
    found = subprocess.run([python, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(Path(line).is_relative_to(python.parents[1]) for line in found.stdout.splitlines())
    command = python.with_name("dovetail")
    done = subprocess.run(
        [command, "demo"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},  # compiled for this path, of use to nobody else
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "") == (done.returncode, done.stderr.replace(COMPILING, ""))
    assert "8 tensors computed again in plain numpy: every bit is the same\n" in done.stdout
    assert f"\n   {command} inspect dovetail-demo/merged " in done.stdout
    assert (tmp_path / "dovetail-demo" / "merged" / "README.md").is_file()


COMPILING = "Compiling kernels for this machine; later runs find them in the cache.\n"

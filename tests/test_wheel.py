"""The wheel holds all that the tree does, and what is installed from it works where there is no tree."""

from __future__ import annotations

import os
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.packaging import FOLDERS, ROOT, build_wheel, copy_sources, install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside the libraries of this environment; give the interpreter that sees both."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "environment")


def test_wheel_holds_the_tree(wheel: Path) -> None:
    """Every module and data file of the three folders is in the wheel, under ``dovetail/``, and nothing else is."""
    tree = {
        str(Path("dovetail", name, path.relative_to(ROOT / folder)))
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc")
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert tree == packed


FILES = """\
import dovetail, dovetail.engine, dovetail.io
print(dovetail.__file__, dovetail.engine.__file__, dovetail.io.__file__, dovetail.__version__)
from dovetail import merge, open_checkpoint
"""


def found_files(python: Path, folder: Path) -> list[Path]:
    """Import the packages by another interpreter, in a folder without sources; give where it finds them."""
    done = subprocess.run([python, "-P", "-c", FILES], cwd=folder, capture_output=True, text=True, check=True)
    *files, version = done.stdout.split()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == version
    return [Path(file) for file in files]


@pytest.mark.slow
def test_editable_installation_is_the_tree(tmp_path: Path) -> None:
    """Installed editable, the three packages are those of the tree, and the command runs."""
    source = copy_sources(tmp_path)
    python = install(source, tmp_path / "environment", "--editable")
    folders = [source / folder / "__init__.py" for folder in FOLDERS.values()]
    assert folders == found_files(python, tmp_path)
    done = subprocess.run([python.with_name("dovetail"), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dovetail ")


@pytest.mark.slow
def test_installed_command_runs_the_demonstration(python: Path, tmp_path: Path) -> None:
    """From elsewhere, with no source tree in sight, ``dovetail demo`` makes, merges and checks its checkpoints."""
    assert all(path.is_relative_to(python.parents[1]) for path in found_files(python, tmp_path))
    command = python.with_name("dovetail")
    done = subprocess.run(
        [command, "demo"],
        cwd=tmp_path,
        env=dict(os.environ),  # or it would have the COLUMNS that readline sets behind Python's back
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

"""The tree is the architecture: folders are layers, and the rules about imports are enforced."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging import ROOT, copy_package

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def packages(top: str) -> set[str]:
    """Give every folder below `top` that holds modules, by its import name."""
    return {f"dovetail.{path.parent.relative_to(ROOT)}".replace("/", ".") for path in (ROOT / top).rglob("__init__.py")}


def test_every_folder_is_packaged() -> None:
    """A wheel holds every folder: setuptools is told of each by name."""
    assert {"dovetail"} | packages("engine") | packages("io") == set(SETTINGS["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(("top", "most"), [("engine", 10), ("io", 6)])
def test_few_folders(top: str, most: int) -> None:
    """A newcomer reads the listing in one look."""
    assert len([name for name in packages(top) if name.count(".") == 2]) <= most


def test_modules_are_in_a_layer() -> None:
    """No folder is without an ``__init__.py``: import-linter would not see it."""
    for top in ("engine", "io"):
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


VIOLATIONS = (
    ("engine/kernels/sums.py", "import dovetail.engine.errors", "Kernels import nothing of ours"),
    ("engine/recipe/layers.py", "import dovetail.engine.planning.grid", "Folders of the engine are layers"),
    ("io/files/boxes.py", "import dovetail.io.zarr.chunking", "Folders of io are layers"),
    ("io/checkpoint.py", "import dovetail.engine.events", "never the other way round"),
    ("engine/text.py", "from dovetail import merge", "nothing below imports from them"),
)
"""A file, an import that is against the rules there, and words of the contract that it breaks."""


def test_violations_fail_the_lint(tmp_path: Path) -> None:
    """Imports against the rules are found, each in the contract that it breaks, and so is a circle."""
    home = tmp_path / "dovetail"
    copy_package(home)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    circle = "engine/text_circle.py", "import dovetail.engine.text"
    back = "engine/text.py", "import dovetail.engine.text_circle"
    for file, line in (circle, back, *((file, line) for file, line, _ in VIOLATIONS)):
        with (home / file).open("a") as target:
            target.write(f"\n{line}\n")
    outcome = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    _, *found = re.split(r"^(.+)\n-{5,}$", outcome.stdout.partition("Broken contracts")[2], flags=re.MULTILINE)
    broken = dict(zip(found[::2], found[1::2], strict=True))
    for file, line, words in VIOLATIONS:
        (said,) = (text for contract, text in broken.items() if words in contract)
        module, imported = file.removesuffix(".py").replace("/", "."), line.split()[1]
        assert f"dovetail.{module} -> {imported} (l." in said, said
    assert re.search(r"- \.text(_circle)? -> \.text(_circle)? ", broken["No circles, at any depth"])

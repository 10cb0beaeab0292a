"""Building and installing Dovetail's wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("engine", "io", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that the tree gets no build folder; nothing is downloaded."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True, timeout=120)
    (wheel,) = folder.glob("dovetail-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment that borrows the libraries of the running one; give its interpreter.

    What is installed editable in the running environment stays out of sight: Python does not read the ``.pth`` files of
    folders that are themselves named in one, and these files are what makes a source tree importable. The libraries are
    added last, as pip would otherwise find Dovetail among them.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    options = ["--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*PIP, *options, str(wheel)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    libraries = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return python

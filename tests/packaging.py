"""Building and installing Dovetail's wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("api", "engine", "io", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = {"": "api", "engine": "engine", "io": "io"}
"""The folders of the tree that are packages, by their places in the package ``dovetail``."""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def copy_package(package: Path) -> None:
    """Copy the modules and data of the tree into a folder that is called ``dovetail``, as a wheel has them."""
    for name, folder in FOLDERS.items():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, package / name, ignore=ignore, dirs_exist_ok=True)


def copy_sources(folder: Path) -> Path:
    """Copy what the package is built of, so that the tree gets no build folder; give where it is."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    return source


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources; nothing is downloaded."""
    source = copy_sources(folder)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, "wheel", *options, str(source)], check=True, timeout=120)
    (wheel,) = folder.glob("dovetail-*.whl")
    return wheel


def install(what: Path, folder: Path, *editable: str) -> Path:
    """Install a wheel or sources into a new environment that borrows the libraries of this one; give its interpreter.

    What is installed editable in the running environment stays out of sight: Python does not read the ``.pth`` files of
    folders that are themselves named in one, and these files are what makes a source tree importable. The libraries are
    added last, as pip would otherwise find Dovetail among them.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    libraries = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    options = ["--python", str(python), "install", "--no-deps", "--no-index", "--no-build-isolation", *editable]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, libraries))} if editable else None
    subprocess.run([*PIP, *options, str(what)], check=True, timeout=60, env=environment)
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return python

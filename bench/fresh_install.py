"""Install Dovetail as a user does, into empty environments with their dependencies, and run its demonstration.

One wheel is built, with the build tools that ``pyproject.toml`` asks for. For every Python given it is installed with
its dependencies from the package index into a new environment, and ``dovetail demo`` has to work there.

    python bench/fresh_install.py --python python3.11 --python python3.12 --python python3.13
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import print_table

ROOT = Path(__file__).parents[1]
SOURCES = ("api", "engine", "io", "pyproject.toml", "README.md", "LICENSE")
LISTED = ("numpy", "numba", "zarr")
"""Dependencies whose versions the table shows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one Python."""

    python: str
    """Its version."""
    versions: str
    """Versions of the dependencies in `LISTED`."""
    install_seconds: float
    """Making the environment and installing."""
    demo_seconds: float
    """The demonstration, kernels compiled."""
    size_bytes: int
    """Size of the environment."""
    fault: str
    """The last line of what failed; empty if all works."""


def run(*command: str | Path, folder: Path) -> str:
    """Run a command outside the source tree, and give what it prints."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip() or f"exit code {done.returncode}")
    return done.stdout


def build(folder: Path) -> Path:
    """Build the wheel from a copy of the sources."""
    source = folder / "source"
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(path, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, folder=folder)
    (wheel,) = folder.glob("dovetail-*.whl")
    return wheel


def try_python(python: str, wheel: Path, folder: Path) -> Outcome:
    """Install the wheel for one Python and run the demonstration."""
    folder.mkdir()
    version = run(python, "-c", "import platform; print(platform.python_version())", folder=folder).strip()
    home, began = folder / "environment", time.monotonic()
    installed = done = began
    versions = fault = ""
    try:
        run(python, "-m", "venv", home, folder=folder)
        run(home / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel, folder=folder)
        installed = done = time.monotonic()
        show = f"import importlib.metadata as m; print(' '.join(m.version(name) for name in {LISTED}))"
        versions = run(home / "bin/python", "-c", show, folder=folder).strip()
        said = run(home / "bin/dovetail", "demo", folder=folder)
        done = time.monotonic()
        if "every bit is the same" not in said:
            fault = "the demonstration did not check its result"
    except RuntimeError as error:
        fault = str(error).splitlines()[-1]
    size_bytes = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    return Outcome(version, versions, installed - began, done - installed, size_bytes, fault)


def main() -> None:
    """Try every Python and print a table; the exit code is 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="interpreter; may be given several times [this one]")
    given = parser.parse_args().python or [sys.executable]
    with tempfile.TemporaryDirectory(prefix="dovetail-fresh-") as name:
        folder = Path(name)
        wheel = build(folder)
        outcomes = [try_python(python, wheel, folder / f"{index}") for index, python in enumerate(given)]
    print_table(
        f"{wheel.name}, {' '.join(LISTED)}",
        ("Python", "versions", "install, s", "demo, s", "environment, MB", "outcome"),
        [
            (
                each.python,
                each.versions,
                f"{each.install_seconds:.0f}",
                f"{each.demo_seconds:.0f}",
                f"{each.size_bytes / 1e6:.0f}",
                each.fault or "works",
            )
            for each in outcomes
        ],
    )
    sys.exit(any(each.fault for each in outcomes))


if __name__ == "__main__":
    main()

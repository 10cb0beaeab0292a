"""Launchers of MPI that this machine has, for tests and benchmarks: MPICH as its wheel brings it, and Open MPI."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.pace import HANGS_S

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Launcher:
    """A program that starts ranks."""

    name: str
    """What people call it."""
    mpiexec: Path
    """The program."""
    options: tuple[str, ...] = ()
    """What it needs to start more ranks than there are cores."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What it and its ranks need in their environment."""

    def command(self, ranks: int, *arguments: object) -> list[str]:
        """Give the command that runs Python as so many ranks."""
        return [str(self.mpiexec), *self.options, "-n", str(ranks), sys.executable, *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        """Give the variables for it; ranks find the modules of the tests."""
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def run(self, ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python as so many ranks to the end; give what they have said together."""
        return subprocess.run(
            self.command(ranks, *arguments),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
            check=False,
        )


def mpich() -> Launcher | None:
    """Give the MPICH of the environment that runs; None if it has none."""
    files = _installed("mpich")
    if not {"mpiexec.hydra", "libmpi.so.12"} <= files.keys():
        return None
    variables = {"LD_LIBRARY_PATH": str(files["libmpi.so.12"].parent), "MPI4PY_MPIABI": "mpich"}
    return Launcher("MPICH", files["mpiexec.hydra"], variables=variables)


def open_mpi() -> Launcher | None:
    """Give the Open MPI of the environment that runs, or else of the system; None if there is none."""
    variables, files = {"MPI4PY_MPIABI": "openmpi"}, _installed("openmpi")
    program = files.get("mpiexec") or files.get("mpirun")
    if program is not None:
        prefix = str(program.parent.parent)
        variables |= {"OPAL_PREFIX": prefix, "PRTE_PREFIX": prefix, "PMIX_PREFIX": prefix}
        variables["LD_LIBRARY_PATH"] = str(program.parent.parent / "lib")
    else:
        names = [shutil.which(name) for name in ("mpiexec.openmpi", "mpiexec")]
        program = next((Path(name) for name in names if name and _says_open_mpi(name)), None)
    if program is None:
        return None
    if os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return Launcher("Open MPI", program, ("--oversubscribe",), variables)


def has_mpi4py() -> bool:
    """Whether ranks can hand out parts."""
    return importlib.util.find_spec("mpi4py") is not None


def _installed(distribution: str) -> dict[str, Path]:
    """Give the files of a distribution by their names; none if it is not installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {
        file.name: Path(os.path.normpath(str(file.locate())))
        for file in files
        if file.name.startswith(("mpi", "libmpi"))
    }


def _says_open_mpi(program: str) -> bool:
    """Whether a launcher is that of Open MPI."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=HANGS_S)
    return "OpenRTE" in said.stdout or "Open MPI" in said.stdout

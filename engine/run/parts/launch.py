"""Whether MPI has started this process as one of several, and how many of them share the machine.

Variables alone prove nothing: a program that MPI has started leaves them to whatever it starts in turn, and a batch
script to all of its commands. So the program that has started this one is looked at: a launcher, or shells between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dovetail.engine.run.parts.part import Part
from dovetail.io.files.machine import usable_cores

_RANKS: Final = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""Variables of Open MPI, and of MPICH, Intel MPI and Cray MPI."""

_OF_OPEN_MPI: Final = ("prted", "prterun", "orted", "orterun")
_OF_OTHERS: Final = ("hydra_", "pmi_proxy", "palsd", "apinit", "slurmstepd")
"""Launchers that set variables of one kind alone: those of the other are inherited from ranks further up."""

_ON_MACHINE: Final = (
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "PALS_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
)
"""Variables with the number of ranks on this machine."""

_LAUNCHERS: Final = (
    "mpiexec",
    "mpirun",
    "hydra_pmi_proxy",
    "hydra_bstrap_pr",  # names are cut to 15 characters by the system
    "pmi_proxy",
    "prted",
    "prterun",
    "orted",
    "orterun",
    "slurmstepd",
    "palsd",
    "apinit",
    "pbs_attach",
    "pbsdsh",
)
"""Programs that start ranks; a name may go on after these."""

_BETWEEN: Final = ("sh", "bash", "dash", "zsh", "ksh", "env", "time", "timeout", "numactl", "taskset", "nice")
"""Programs that people put between."""


def rank_of_launch(
    environment: Mapping[str, str] | None = None, parents: Callable[[], list[str]] | None = None
) -> Part | None:
    """Give the share of this process if MPI has started it as one of several, and nothing else has been asked for.

    Parameters
    ----------
    environment
        The variables; None for those of this process.
    parents
        Gives the names of the programs that have started this one, the closest first; None to look.

    Returns
    -------
    Part or None
        None if it is alone, or has only inherited the variables.

    """
    found = os.environ if environment is None else environment
    ranks = [pair for pair in _RANKS if all(found.get(name, "").isdigit() for name in pair)]
    launcher = _launcher((parents or _parents)()) if ranks else ""
    for rank, size in ranks:
        if launcher.startswith(_OF_OTHERS if rank == _RANKS[0][0] else _OF_OPEN_MPI):
            continue
        # A batch script is started by SLURM as a rank is, and is given the variables of whoever has submitted it.
        if launcher.startswith("slurmstepd") and found.get("SLURM_PROCID", found[rank]) != found[rank]:
            continue
        return Part(int(found[rank]) + 1, int(found[size])) if launcher and int(found[size]) > 1 else None
    return None


def _launcher(parents: list[str]) -> str:
    """Give the launcher that has started this process, itself or through a shell; empty if none has."""
    for name in parents:
        if name.startswith(_LAUNCHERS):
            return name
        if name not in _BETWEEN:
            break
    return ""


def processes_here(environment: Mapping[str, str] | None = None) -> int:
    """Give the number of ranks on this machine, as far as variables tell; 1 if they do not."""
    found = os.environ if environment is None else environment
    sizes = [int(found[name]) for name in _ON_MACHINE if found.get(name, "").isdigit()]
    return max(1, *sizes, 1)


def threads_here(environment: Mapping[str, str] | None = None, cores: int | None = None) -> int:
    """Give the threads of one rank: the cores that it is bound to, or its share of the machine's."""
    usable, all_ = usable_cores() if cores is None else cores, os.cpu_count() or 1
    return usable if usable < all_ else max(1, usable // processes_here(environment))


def _parents() -> list[str]:
    """Name the programs that have started this one, the closest first."""
    names, process = [], os.getppid()
    while process > 0:
        try:
            # The name, in parentheses, can hold anything; the parent is the second field after it.
            before, _, after = Path(f"/proc/{process}/stat").read_text().rpartition(")")
            names.append(before.partition("(")[2])
            process = int(after.split()[1])
        except (OSError, ValueError, IndexError):
            break
    return names

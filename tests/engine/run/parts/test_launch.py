"""Whether MPI has started a process, and what it shares with others of its machine."""

from __future__ import annotations

import os

import pytest

from dovetail.engine.run.parts.launch import _parents, processes_here, rank_of_launch, threads_here
from dovetail.engine.run.parts.part import Part

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}
MPICH = {"PMI_RANK": "0", "PMI_SIZE": "3"}


@pytest.mark.parametrize(
    ("environment", "parents", "expected"),
    [
        (OPEN_MPI, ["prted"], Part(3, 4)),
        (OPEN_MPI, ["bash", "timeout", "mpirun"], Part(3, 4)),
        (MPICH, ["hydra_pmi_proxy", "mpiexec"], Part(1, 3)),
        (MPICH, ["slurmstepd"], Part(1, 3)),
        ({**OPEN_MPI, **MPICH}, ["hydra_pmi_proxy"], Part(1, 3)),
        ({**OPEN_MPI, "PMI_RANK": "0", "PMI_SIZE": "1"}, ["hydra_pmi_proxy"], None),
        ({**OPEN_MPI, **MPICH}, ["prted"], Part(3, 4)),
        (OPEN_MPI, ["slurmstepd"], None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_PROCID": "2"}, ["slurmstepd"], Part(3, 4)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_PROCID": "0"}, ["bash", "slurmstepd"], None),
        (OPEN_MPI, ["python3", "prted"], None),
        (OPEN_MPI, ["bash", "sshd"], None),
        (OPEN_MPI, [], None),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, ["prted"], None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, ["slurmstepd"], None),
        ({"PMI_RANK": "x", "PMI_SIZE": "3"}, ["hydra_pmi_proxy"], None),
        ({}, ["mpirun"], None),
    ],
)
def test_launched(environment: dict[str, str], parents: list[str], expected: Part | None) -> None:
    """MPI has started a process if its variables are there, and a launcher has started it or a shell between."""
    assert expected == rank_of_launch(environment, lambda: parents)


def test_parents() -> None:
    """The programs that have started this one are named, up to the first of all."""
    found = _parents()
    assert len(found) >= 1
    with open(f"/proc/{os.getppid()}/comm") as file:
        assert file.read().strip() == found[0]


def test_neighbours() -> None:
    """Ranks share the cores of their machine, unless they are bound to some."""
    cores = os.cpu_count() or 1
    assert 1 == processes_here({})
    assert 4 == processes_here({"MPI_LOCALNRANKS": "4"})
    assert max(1, cores // 2) == threads_here({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, cores)
    if cores > 1:
        assert cores - 1 == threads_here({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, cores - 1)

"""Merges by processes that MPI has started: each makes its share, or one of them hands parts out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.engine import merge
from tests.cluster_kills import kill_ranks
from tests.cluster_makers import mpi_ranks
from tests.crash import cases
from tests.engine.actions.making_parts import in_one_piece
from tests.engine.conftest import Family
from tests.engine.outputs import contents
from tests.mpi_launch import Launcher, has_mpi4py, mpich, open_mpi
from tests.part_methods import FORMATS, VARIANTS, Trial
from tests.parts import end, start


def installed(*finders: Callable[[], Launcher | None]) -> Launcher:
    """Give the first of some launchers that is installed."""
    for find in finders:
        if (found := find()) is not None:
            return found
    pytest.skip("MPICH or Open MPI is not installed; pip install mpich, or apt-get install openmpi-bin")


@pytest.fixture(params=[mpich, open_mpi], ids=["mpich", "openmpi"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Give each launcher that is installed."""
    return installed(request.param)


@pytest.fixture
def mpich_first() -> Launcher:
    """Give MPICH or, without it, Open MPI, for what begins when ranks have started already."""
    return installed(mpich, open_mpi)


@pytest.fixture
def open_mpi_first() -> Launcher:
    """Give Open MPI or, without it, MPICH, for what begins when ranks have started already."""
    return installed(open_mpi, mpich)


needs_mpi4py = pytest.mark.skipif(not has_mpi4py(), reason="mpi4py is not installed")


def check_tensors(family: Family) -> None:
    """Make sure that an output has the files of one piece, with the same tensors; its chunks may be smaller."""
    expected, made = in_one_piece(family), contents(family.out)
    assert expected.keys() == made.keys()
    assert [] == [name for name in expected if name.endswith(".safetensors") and expected[name] != made[name]]


def test_every_rank_makes_its_share(family: Family, launcher: Launcher) -> None:
    """Started by mpiexec without a word more, all ranks make the output, which is there when mpiexec returns."""
    found = launcher.run(2, "-m", "dovetail.engine", "merge", family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    assert 1 == found.stderr.count("MPI has started 2 processes, each of which makes a part of the output.\n")
    assert "\x1b" not in found.stdout  # ranks of Open MPI have a terminal each, which nobody sees
    assert 1 == found.stdout.count("Statistics and checksums of every tensor")
    assert 0 < found.stdout.count("allowed") <= 2  # the first rank's beginning, and the end
    assert in_one_piece(family) == contents(family.out)
    assert not family.staging.exists()


def test_a_sample_of_methods(tmp_path: Path, mpich_first: Launcher) -> None:
    """Every ninth variant of a method has the bytes of one process; ``bench.parts --methods --by mpi`` tries all."""
    trial, forms = Trial(tmp_path, layers=1), sorted(FORMATS)
    with mpi_ranks(mpich_first, 2) as make:
        for number, variant in enumerate(VARIANTS[::9]):
            assert [] == trial.differing(variant, forms[number % 2], {"mpi": make}, workers=(2,))


@needs_mpi4py
def test_a_rank_hands_parts_out(family: Family, launcher: Launcher) -> None:
    """By mpi4py.futures the first rank hands parts out, to itself too, and an error ends all of them."""
    pool = ("-m", "mpi4py.futures", "-m", "dovetail.engine", "merge")
    found = launcher.run(2, *pool, family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    assert "2 workers of MPI: 1 part of the merge to make.\n" in found.stderr
    merge(family.recipe_path, family.home / "threads")
    assert contents(family.home / "threads") == contents(family.out)
    wrong = launcher.run(2, *pool, family.home / "no.yml", family.out, "--executor", "mpi")
    assert 0 != wrong.returncode
    assert "no.yml" in wrong.stderr


@needs_mpi4py
def test_a_rank_alone_makes_everything(family: Family, open_mpi_first: Launcher) -> None:
    """By mpi4py.futures one rank hands parts out to itself."""
    found = open_mpi_first.run(
        1, "-m", "mpi4py.futures", "-m", "dovetail.engine", "merge", family.recipe_path, family.out
    )
    assert 0 == found.returncode, found.stderr
    assert "1 worker of MPI: 1 part of the merge to make.\n" in found.stderr


@needs_mpi4py
def test_stages(family: Family, open_mpi_first: Launcher) -> None:
    """Ranks that would each make a part are told what to do, and it works: one of them hands out stage after stage."""
    text = family.recipe_path.read_text()
    final = f"merge_method: linear\nmodels:\n- model: first\n- model: {family.math}\nparameters: {{weight: 0.5}}\n"
    family.recipe_path.write_text(f"{text}name: first\n---\n{final}")
    command = ("-m", "dovetail.engine", "merge", family.recipe_path, family.out)
    refused = open_mpi_first.run(2, *command)
    assert 2 == refused.returncode
    assert "MPI has started 2 processes, each of which is to make a part of a recipe of 2 stages; " in refused.stderr
    assert " or by mpiexec -n 2 python -m mpi4py.futures -m dovetail merge ...\n" in refused.stderr
    made = open_mpi_first.run(2, "-m", "mpi4py.futures", *command)
    assert 0 == made.returncode, made.stderr
    merge(family.recipe_path, family.home / "threads")
    found, expected = contents(family.out), contents(family.home / "threads")
    assert [] == [name for name in expected if name.endswith(".safetensors") and expected[name] != found[name]]


MAKERS = """
import sys
from dovetail.engine.actions import hand_out
from dovetail.engine.cli.main import main
from dovetail.engine.planning import grid

take = hand_out._Client._take

def tell(client, number, report, *rest):
    print("made by", report.worker, file=sys.stderr)
    take(client, number, report, *rest)

if __name__ == "__main__":
    grid.CHUNK_STEP, grid.TASK_BYTES, hand_out.parts_for = 1000, 1, lambda moved_bytes, workers: 4 * workers
    hand_out._Client._take = tell
    main(sys.argv[1:])
"""
"""The command, which makes of a small merge many parts, and says who has made each."""


@needs_mpi4py
def test_the_rank_that_hands_out_works_too(family: Family, mpich_first: Launcher) -> None:
    """No rank is idle: the first one makes parts as the others do."""
    script = family.home / "script.py"
    script.write_text(MAKERS)
    found = mpich_first.run(2, "-m", "mpi4py.futures", script, "merge", family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    makers = [line.split(" on ")[0] for line in found.stderr.splitlines() if line.startswith("made by")]
    assert {"made by rank 0", "made by rank 1"} == {*makers}
    assert len(makers) > 2
    check_tensors(family)


POOL = """
import sys
from dovetail.engine import RunOptions, merge
from dovetail.engine.actions import hand_out
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine import events
from dovetail.engine.planning import grid
from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

def stop(event):
    if isinstance(event, events.PartDone):
        raise KeyboardInterrupt

if __name__ == "__main__":
    grid.CHUNK_STEP, grid.TASK_BYTES, hand_out.parts_for = 1000, 1, lambda moved_bytes, workers: 4 * workers
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
        if pool is not None:
            try:
                merge(sys.argv[1], sys.argv[2], run=RunOptions(executor=pool), listen=stop)
            except InterruptedMergeError as error:
                print(error)
            merge(sys.argv[1], sys.argv[2], run=RunOptions(executor=pool))
"""


@needs_mpi4py
def test_a_pool_of_a_program(family: Family, open_mpi_first: Launcher) -> None:
    """A pool that a program has opened makes parts, stops when it is told to, and goes on."""
    script = family.home / "script.py"
    script.write_text(POOL)
    found = open_mpi_first.run(2, script, family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    assert found.stdout.startswith("merge interrupted; ")
    assert found.stdout.endswith("run the same command again to continue\n")
    check_tensors(family)


def test_killed_ranks(tmp_path: Path, open_mpi_first: Launcher) -> None:
    """After the death of a rank MPI ends all, and the same command continues.

    ``bench.parts --by mpi --kills N`` kills more, and ranks of MPICH too.
    """
    (case,) = (case for case in cases() if case.name == "cabs-magnitude-3")
    assert 0 == end(start(lambda: kill_ranks(tmp_path, case, 1, 3, open_mpi_first, ranks=2)))

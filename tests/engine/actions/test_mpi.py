"""Merges by processes that MPI has started: each makes its share, or one of them hands parts out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge
from tests.engine.actions.making_parts import in_one_piece
from tests.engine.conftest import Family
from tests.engine.outputs import contents
from tests.pace import HANGS_S


def _installed(name: str) -> Path | None:
    """Give a file that the distribution of MPICH has installed; None if there is none."""
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == name), None)


MPIEXEC, LIBRARY = _installed("mpiexec.hydra"), _installed("libmpi.so.12")

pytestmark = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="mpich and mpi4py are not installed"
)


def mpiexec(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Start a command as several processes of MPI; give what they have said together."""
    assert LIBRARY is not None
    return subprocess.run(
        [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", *map(str, arguments)],
        env={**os.environ, "LD_LIBRARY_PATH": str(LIBRARY.parent)},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


def check_tensors(family: Family) -> None:
    """Make sure that an output has the files of one piece, with the same tensors; its chunks may be smaller."""
    expected, made = in_one_piece(family), contents(family.out)
    assert expected.keys() == made.keys()
    assert [] == [name for name in expected if name.endswith(".safetensors") and expected[name] != made[name]]


def test_every_rank_makes_its_share(family: Family) -> None:
    """Started by mpiexec without a word more, all ranks make the output, which is there when mpiexec returns."""
    found = mpiexec(4, "dovetail.engine", "merge", family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    assert 1 == found.stderr.count("MPI has started 4 processes, each of which makes a part of the output.\n")
    assert 1 == found.stdout.count("Statistics and checksums of every tensor")
    assert 0 < found.stdout.count("allowed") <= 2  # the first rank's beginning, and the end
    assert in_one_piece(family) == contents(family.out)
    assert not family.staging.exists()


def test_a_rank_hands_parts_out(family: Family) -> None:
    """By mpi4py.futures the first rank hands parts out, to itself too, and an error ends all of them."""
    pool = ("mpi4py.futures", "-m", "dovetail.engine", "merge")
    found = mpiexec(3, *pool, family.recipe_path, family.out)
    assert 0 == found.returncode, found.stderr
    assert "3 workers of MPI: 1 part of the merge to make.\n" in found.stderr
    merge(family.recipe_path, family.home / "threads")
    assert contents(family.home / "threads") == contents(family.out)
    alone = mpiexec(1, *pool, family.recipe_path, family.home / "alone")
    assert 0 == alone.returncode, alone.stderr
    assert "1 worker of MPI: 1 part of the merge to make.\n" in alone.stderr
    wrong = mpiexec(2, *pool, family.home / "no.yml", family.out, "--executor", "mpi")
    assert 0 != wrong.returncode
    assert "no.yml" in wrong.stderr


def test_stages(family: Family) -> None:
    """Ranks that would each make a part are told what to do, and it works: one of them hands out stage after stage."""
    text = family.recipe_path.read_text()
    final = f"merge_method: linear\nmodels:\n- model: first\n- model: {family.math}\nparameters: {{weight: 0.5}}\n"
    family.recipe_path.write_text(f"{text}name: first\n---\n{final}")
    command = ("dovetail.engine", "merge", family.recipe_path, family.out)
    refused = mpiexec(2, *command)
    assert 2 == refused.returncode
    assert "MPI has started 2 processes, each of which is to make a part of a recipe of 2 stages; " in refused.stderr
    assert " or by mpiexec -n 2 python -m mpi4py.futures -m dovetail merge ...\n" in refused.stderr
    made = mpiexec(2, "mpi4py.futures", "-m", *command)
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
    grid.CHUNK_STEP, grid.TASK_BYTES, hand_out.LEAST_PART_BYTES = 1000, 1, 1
    hand_out._Client._take = tell
    main(sys.argv[1:])
"""
"""The command, which makes of a small merge many parts, and says who has made each."""


def test_the_rank_that_hands_out_works_too(family: Family) -> None:
    """No rank is idle: the first one makes parts as the others do."""
    script = family.home / "script.py"
    script.write_text(MAKERS)
    found = mpiexec(2, "mpi4py.futures", script, "merge", family.recipe_path, family.out)
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
    grid.CHUNK_STEP, grid.TASK_BYTES, hand_out.LEAST_PART_BYTES = 1000, 1, 1
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
        if pool is not None:
            try:
                merge(sys.argv[1], sys.argv[2], run=RunOptions(executor=pool), listen=stop)
            except InterruptedMergeError as error:
                print(error)
            merge(sys.argv[1], sys.argv[2], run=RunOptions(executor=pool))
"""


def test_a_pool_of_a_program(family: Family) -> None:
    """A pool that a program has opened makes parts, stops when it is told to, and goes on."""
    script = family.home / "script.py"
    script.write_text(POOL)
    assert LIBRARY is not None
    found: Any = subprocess.run(
        [str(MPIEXEC), "-n", "3", sys.executable, str(script), str(family.recipe_path), str(family.out)],
        env={**os.environ, "LD_LIBRARY_PATH": str(LIBRARY.parent)},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert 0 == found.returncode, found.stderr
    assert found.stdout.startswith("merge interrupted; ")
    assert found.stdout.endswith("run the same command again to continue\n")
    check_tensors(family)

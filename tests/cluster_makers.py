"""Making variants of methods by clusters of real processes: the workers of Dask, and ranks of MPI."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from tests.dask_commands import running
from tests.mpi_launch import Launcher
from tests.pace import HANGS_S
from tests.part_methods import Maker, Variant, by_runs


def in_parts() -> str:
    """Give a script that is the command, which makes of small merges many parts, and chunks as small as here."""
    return f"""
import sys
from dovetail.engine.actions import hand_out
from dovetail.engine.cli import main
from dovetail.engine.planning import grid
grid.CHUNK_STEP, grid.TASK_BYTES = {grid.CHUNK_STEP}, {grid.TASK_BYTES}
hand_out.parts_for = lambda moved_bytes, workers: 4 * workers
main.main(sys.argv[1:])
"""


@contextlib.contextmanager
def dask_workers(count: int) -> Iterator[Maker]:
    """Start a Dask cluster of so many worker processes, which make whatever is asked for during the block."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        client.wait_for_workers(count)  # type: ignore[no-untyped-call]
        yield by_runs(RunOptions(executor=client))


@contextlib.contextmanager
def mpi_ranks(launcher: Launcher, count: int) -> Iterator[Maker]:
    """Start so many ranks, each of which makes its share of whatever is asked for during the block."""
    with tempfile.TemporaryDirectory(prefix="dovetail-ranks-") as name:
        folder, numbers = Path(name), itertools.count()
        log = folder / "log"
        command = launcher.command(count, "-m", "tests.mpi_loop", folder, grid.CHUNK_STEP, grid.TASK_BYTES)
        with running(command, log, launcher.environment()) as process:

            def make(variant: Variant, recipe: Path, options: PlanOptions, output: Path) -> None:
                number = next(numbers)
                asked = folder / "asked"
                asked.write_bytes(pickle.dumps((variant, recipe, options, output)))
                asked.rename(folder / f"job-{number}")
                for rank in range(1, count + 1):
                    answer = folder / f"done-{number}-{rank}"
                    while not answer.exists():
                        if process.poll() is not None:
                            raise RuntimeError(f"{launcher.name} has ended: {log.read_text()}")
                        time.sleep(0.01)
                    if said := answer.read_text():
                        raise RuntimeError(f"rank {rank} of {launcher.name} has failed at {variant.name}: {said}")

            yield make
            (folder / "end").touch()
            process.wait(HANGS_S)

"""Making variants of methods by clusters of real processes: the workers of Dask, and ranks of MPI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from tests.mpi_launch import Launcher
from tests.part_methods import Maker, Variant, by_runs


def in_parts() -> str:
    """Give a script that is the command, which makes of small merges many parts, and chunks as small as here."""
    return f"""
import sys
from dovetail.engine.actions import hand_out
from dovetail.engine.cli import main
from dovetail.engine.planning import grid
grid.CHUNK_STEP, grid.TASK_BYTES, hand_out.LEAST_PART_BYTES = {grid.CHUNK_STEP}, {grid.TASK_BYTES}, 1
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


def mpi_ranks(launcher: Launcher, count: int) -> Maker:
    """Make each variant by one command with so many ranks, each of which makes its share."""

    def make(variant: Variant, recipe: Path, options: PlanOptions, output: Path) -> None:
        what = ["vectors"] if variant.store == "make" else ["merge", "--format", options.format.name]
        done = launcher.run(count, "-c", in_parts(), *what, recipe, output)
        if done.returncode:
            raise RuntimeError(f"{variant.name} by {launcher.name} ended with {done.returncode}: {done.stderr}")

    return make

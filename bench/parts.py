"""Kill processes that make parts of merges, hundreds of times; and time the division of large plans.

Run from the repository: ``.venv/bin/python -m bench.parts --kills 50`` (for each of the cases), with ``--machines 3``
on machines that share a folder as over NFS, ``--methods`` for the bytes of every method, or ``--plans``.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dovetail.engine.actions import hand_out
from dovetail.engine.planning import grid
from dovetail.engine.planning.shares import Unit, divide, heaviest, limit_for
from dovetail.io.output import SafetensorsFormat
from tests.cluster_kills import kill_ranks, kill_workers
from tests.cluster_makers import dask_workers, mpi_ranks
from tests.crash import CrashCase, cases
from tests.mpi_launch import Launcher, mpich, open_mpi
from tests.nfs import machines, why_not
from tests.part_kills import Tally, kill_parts
from tests.part_methods import FORMATS, VARIANTS, Maker, Trial, by_parts

COLUMNS = ("started", "killed", "publishing", "crashed", "refused", "twice", "mixed", "replaced")
"""Fields of a tally, in the order of the table."""

OF_CLUSTERS = ("started", "killed", "workers", "publishing", "gave_up", "replaced")
"""Those that count where a cluster makes the output."""

BY = ("parts", "dask", "mpi", "openmpi")
"""What makes an output: processes with a part each, four workers of Dask, four ranks of MPICH, or of Open MPI."""


def _run(case: CrashCase, options: argparse.Namespace, by: str) -> Tally:
    with tempfile.TemporaryDirectory(prefix="dovetail-parts-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if by == "dask":
            return kill_workers(folder, case, options.kills, options.seed)
        if by != "parts":
            return kill_ranks(folder, case, options.kills, options.seed, _launcher(by))
        shared = stack.enter_context(machines(folder, options.machines, 0.5)) if options.machines else None
        counts = tuple(options.counts or (3, 3, 3, 2, 5))
        return kill_parts(
            folder, case, options.kills, options.seed, counts, locks=not options.no_locks, machines=shared
        )


def _launcher(name: str) -> Launcher:
    """Give what starts ranks."""
    found = mpich() if name == "mpi" else open_mpi()
    if found is None:
        sys.exit(f"{name} is not installed; expected it; pip install mpich, or apt-get install openmpi-bin")
    return found


def kill(options: argparse.Namespace, by: str) -> None:
    """Kill processes that make parts of every case, and print what happened to them."""
    if options.machines and why_not():
        print(f"skipped: {why_not()}")
        return
    total, columns = Tally(), COLUMNS if by == "parts" else OF_CLUSTERS
    print(f"{f'case, by {by}':20}", *(f"{name:>10}" for name in columns), f"{'seconds':>8}")
    for case in cases():
        if case.vectors != "make" and not case.content:
            continue  # conversions have no parts
        if options.cases and case.name not in options.cases:
            continue
        began = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # kernels are loaded anew for each case
            found = pool.apply(_run, (case, options, by))
        _print_row(case.name, columns, found, time.monotonic() - began)
        total.add(found)
    _print_row("all", columns, total, 0.0)
    print("every output was byte-identical to that of one process, and no former output was lost")


def _print_row(name: str, columns: Sequence[str], tally: Tally, seconds: float) -> None:
    print(f"{name:20}", *(f"{getattr(tally, column):10}" for column in columns), f"{seconds:8.1f}", flush=True)


def methods(options: argparse.Namespace) -> None:
    """Make every method in parts or by clusters, and in one piece; print whether all bytes are the same."""
    memory, faults = Path("/dev/shm"), 0
    grid.CHUNK_STEP, grid.TASK_BYTES = 1024, 1  # many chunks
    hand_out.parts_for = lambda moved_bytes, workers: 4 * workers  # several of each merge, however small
    with contextlib.ExitStack() as stack:
        makers = _makers(options, stack)
        place = tempfile.TemporaryDirectory(prefix="dovetail-parts-", dir=memory if memory.is_dir() else None)
        trial = Trial(Path(stack.enter_context(place)), layers=5)
        print(f"{'method':58} {'output':12} {'files':>6} {'seconds':>8}")
        for variant in VARIANTS:
            if options.cases and variant.method not in options.cases:
                continue
            for form in ("store",) if variant.store == "make" else FORMATS:
                began = time.monotonic()
                found = trial.differing(variant, form, makers, (1, 4))
                faults += len(found)
                verdict = f"{len(found)} differ, such as {found[0]}" if found else "same"
                print(f"{variant.name:58} {form:12} {verdict:>6} {time.monotonic() - began:8.1f}", flush=True)
    print(f"by {', '.join(makers)}: {faults} files differ from those of one process with 1 and with 4 workers")
    sys.exit(1 if faults else 0)


def _makers(options: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Maker]:
    """Give what makes the variants, by name; clusters live until the stack is closed."""
    found: dict[str, Maker] = {}
    if "parts" in options.by:
        found |= {f"{count} parts": by_parts(count, 4) for count in options.counts or (1, 3, 8, 16)}
    if "dask" in options.by:
        found["4 workers of Dask"] = stack.enter_context(dask_workers(4))
    for launcher in (_launcher(name) for name in options.by if "mpi" in name):
        found[f"4 ranks of {launcher.name}"] = stack.enter_context(mpi_ranks(launcher, 4))
    return found


def plans() -> None:
    """Divide models of many shapes among many parts, and print how long it takes and how even it is."""
    print(f"{'tensors':>9} {'parts':>6} {'files':>8} {'heaviest / fair':>16} {'seconds':>8}")
    layer = [4096 * 4096, 1024 * 4096, 1024 * 4096, 4096 * 4096, *[14336 * 4096] * 3, 4096, 4096]
    for layers in (32, 5_000, 111_111):
        sizes = 2 * np.array([*layer * layers, 4096], np.int64)
        for count in (16, 1000):
            began = time.monotonic()
            limit = limit_for(SafetensorsFormat(), sizes, 4 * sizes, count)
            assert limit is not None
            loads = np.add.reduceat(4 * sizes, SafetensorsFormat(limit).shard_starts(sizes)).tolist()
            divide([Unit((number,), load) for number, load in enumerate(loads)], count)
            seconds = time.monotonic() - began
            uneven = heaviest(loads, count) / (sum(loads) / count)
            print(f"{len(sizes):9,} {count:6} {len(loads):8,} {uneven:16.3f} {seconds:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills for each case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants and the parts")
    parser.add_argument("--cases", nargs="*", default=[], help="names of cases, or of methods; all by default")
    parser.add_argument("--no-locks", action="store_true", help="do as on a file system without locks")
    parser.add_argument("--machines", type=int, default=0, metavar="N", help="on N machines that see it as over NFS")
    parser.add_argument("--methods", action="store_true", help="make every method instead, and kill nothing")
    parser.add_argument("--by", nargs="+", choices=BY, default=["parts"], help="what makes it [parts]")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of parts that are tried")
    parser.add_argument("--plans", action="store_true", help="divide large plans instead")
    options = parser.parse_args()
    if (options.machines or options.no_locks) and (options.methods or options.plans or options.by != ["parts"]):
        parser.error("--machines and --no-locks are for kills of parts; expected neither --methods, --plans nor --by")
    if options.plans:
        plans()
    elif options.methods:
        methods(options)
    else:
        for by in options.by:
            kill(options, by)


if __name__ == "__main__":
    main()

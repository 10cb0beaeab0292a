"""Kill processes that make parts of merges, hundreds of times; and time the division of large plans.

Run from the repository: ``.venv/bin/python -m bench.parts --kills 50`` (for each of the cases), with ``--machines 3``
on machines that share a folder as over NFS, or ``--plans``.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from dovetail.engine.planning.shares import Unit, divide, heaviest, limit_for
from dovetail.io.output import SafetensorsFormat
from tests.crash import CrashCase, cases
from tests.nfs import machines, why_not
from tests.part_kills import Tally, kill_parts

COLUMNS = ("started", "killed", "publishing", "crashed", "refused", "twice", "mixed", "replaced")
"""Fields of a tally, in the order of the table."""


def _run(case: CrashCase, options: argparse.Namespace) -> Tally:
    with tempfile.TemporaryDirectory(prefix="dovetail-parts-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        shared = stack.enter_context(machines(folder, options.machines, 0.5)) if options.machines else None
        return kill_parts(folder, case, options.kills, options.seed, locks=not options.no_locks, machines=shared)


def kill(options: argparse.Namespace) -> None:
    """Kill parts of every case, and print what happened to their processes."""
    if options.machines and why_not():
        print(f"skipped: {why_not()}")
        return
    total = Tally()
    print(f"{'case':20}", *(f"{name:>10}" for name in COLUMNS), f"{'seconds':>8}")
    for case in cases():
        if case.vectors != "make" and not case.content:
            continue  # conversions have no parts
        if options.cases and case.name not in options.cases:
            continue
        began = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # kernels are loaded anew for each case
            found = pool.apply(_run, (case, options))
        _print_row(case.name, found, time.monotonic() - began)
        total.add(found)
    _print_row("all", total, 0.0)
    print("every output was byte-identical to that of one process, and no former output was lost")


def _print_row(name: str, tally: Tally, seconds: float) -> None:
    print(f"{name:20}", *(f"{getattr(tally, column):10}" for column in COLUMNS), f"{seconds:8.1f}", flush=True)


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
    parser.add_argument("--cases", nargs="*", default=[], help="names of cases; all by default")
    parser.add_argument("--no-locks", action="store_true", help="do as on a file system without locks")
    parser.add_argument("--machines", type=int, default=0, metavar="N", help="on N machines that see it as over NFS")
    parser.add_argument("--plans", action="store_true", help="divide large plans instead")
    options = parser.parse_args()
    if options.plans:
        plans()
    else:
        kill(options)


if __name__ == "__main__":
    main()

"""Kill processes that make parts of merges, hundreds of times; and time the division of large plans.

Run from the repository: ``.venv/bin/python -m bench.parts --kills 50`` (for each of the cases), or ``--plans``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from dovetail.engine.planning.shares import Unit, divide, heaviest, limit_for
from dovetail.io.output import SafetensorsFormat
from tests.crash import CrashCase, cases
from tests.parts import Tally, kill_parts


def _run(case: CrashCase, kills: int, seed: int, locks: bool) -> Tally:
    with tempfile.TemporaryDirectory(prefix="dovetail-parts-") as folder:
        return kill_parts(Path(folder), case, kills, seed, locks=locks)


def kill(kills: int, seed: int, names: list[str], *, locks: bool) -> None:
    """Kill parts of every case, and print what happened to their processes."""
    total = Tally()
    print(f"{'case':20} {'processes':>10} {'kills':>6} {'refused':>8} {'unpublished':>12} {'seconds':>8}")
    for case in cases():
        if case.vectors != "make" and not case.content:
            continue  # conversions have no parts
        if names and case.name not in names:
            continue
        began = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # kernels are loaded anew for each case
            found = pool.apply(_run, (case, kills, seed, locks))
        line = f"{case.name:20} {found.started:10} {found.killed:6} {found.refused:8} {found.publishing:12}"
        print(f"{line} {time.monotonic() - began:8.1f}", flush=True)
        total = replace(total, started=total.started + found.started, killed=total.killed + found.killed)
    print(f"{total.killed} kills of {total.started} processes; every result was byte-identical to that of one process")


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
    parser.add_argument("--plans", action="store_true", help="divide large plans instead")
    options = parser.parse_args()
    if options.plans:
        plans()
    else:
        kill(options.kills, options.seed, options.cases, locks=not options.no_locks)


if __name__ == "__main__":
    main()

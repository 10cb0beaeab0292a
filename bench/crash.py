"""Kill merges thousands of times: the long version of tests/test_crash.py.

Run from the repository: ``.venv/bin/python -m bench.crash --kills 500`` (for each of the cases).
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from tests.crash import CrashCase, cases, kill_until_done


def _run(case: CrashCase, kills: int, seed: int) -> tuple[int, int]:
    with tempfile.TemporaryDirectory(prefix="dovetail-crash-") as folder:
        return kill_until_done(Path(folder), case, kills, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500, help="kills for each case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options = parser.parse_args()
    total = 0
    print(f"{'case':20} {'kills':>6} {'continued':>10} {'seconds':>8}")
    for case in cases():
        began = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # kernels are loaded anew for each case
            killed, continued = pool.apply(_run, (case, options.kills, options.seed))
        total += killed
        print(f"{case.name:20} {killed:6} {continued:10} {time.monotonic() - began:8.1f}", flush=True)
    print(f"{total} kills; every result was byte-identical to that of an uninterrupted merge")


if __name__ == "__main__":
    main()

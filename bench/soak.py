"""Merges of all kinds in one process, again and again, and what the process holds after each fifty of them.

Run from the repository: ``.venv/bin/python -m bench.soak --merges 300``. It fails where something grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.soak import Left, settle, soaking
from tests.test_soak import MOST_SOCKETS

_ROW = "{:>7} {:>9} {:>9} {:>8} {:>12} {:>8} {:>10} {:>9} {:>7} {:>8}"
_MOST_GROWTH_KIB = 30.0
"""Most resident memory that a merge may leave behind, on average over the second half, in KiB."""


def main() -> None:
    """Work, print the table, and write it to ``bench/results/soak.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merges", type=int, default=300)
    merges = parser.parse_args().merges
    columns = (
        "merges",
        "RSS, MiB",
        "objects",
        "threads",
        "descriptors",
        "sockets",
        "temporary",
        "handlers",
        "warned",
        "seconds",
    )
    print(_ROW.format(*columns), flush=True)
    rows: dict[int, Left] = {}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, soaking(Path(folder)) as soak:
        done, began, count = 0, time.monotonic(), Counter[str]()
        for name, work in itertools.cycle(soak.kinds().items()):
            number = work()
            done, count[name] = done + number, count[name] + number
            if done // 50 > len(rows) or done >= merges:
                settle()
                rows[done] = left = Left.now()
                counted = asdict(left)
                mib = counted.pop("resident_mib")
                print(_ROW.format(done, f"{mib:.1f}", *counted.values(), f"{time.monotonic() - began:.0f}"), flush=True)
            if done >= merges:
                break
    print(", ".join(f"{name} {number}" for name, number in count.items()))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    content = {"kinds": dict(count), "rows": {str(key): asdict(row) for key, row in rows.items()}}
    (results / "soak.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(_verdict(rows))


def _verdict(rows: dict[int, Left]) -> str | int:
    """Say what has grown in the second half; 0 if nothing has."""
    merges = sorted(rows)
    middle, last = next(each for each in merges if 2 * each >= merges[-1]), merges[-1]
    before, after = rows[middle], rows[last]
    growth = (after.resident_mib - before.resident_mib) * 1024 / max(1, last - middle)
    print(f"resident memory in the second half: {growth:+.1f} KiB a merge")
    grown = [
        name
        for name in ("threads", "descriptors", "temporary", "handlers", "warned")
        if getattr(after, name) > getattr(before, name)
    ]
    grown += ["sockets"] if after.sockets - before.sockets > MOST_SOCKETS else []
    grown += ["memory"] if growth > _MOST_GROWTH_KIB else []
    return f"error: {', '.join(grown)} grew" if grown else 0


if __name__ == "__main__":
    main()

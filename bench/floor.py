"""A CABS merge beside the floor that input and output set, with a warm and a cold page cache.

    python bench/floor.py                       # 3 x 1.7 GB; the disk as it is
    python bench/floor.py --pages               # and more ways of reading and writing than merges could use
    python bench/floor.py --disk 2GB            # cold runs read at most 2 GB/s (needs the right to make control groups)

The floor (`floor_io.py`) reads every input byte once and writes as many bytes as the output has, durably, with as many
threads. It is measured in every variant of reading (into a buffer, through a memory map) and writing (flushed at the
end, steadily); the fastest is the floor. Its process starts an interpreter too. All take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import workplace
from cgroup import Group, GroupError, read_speed_group
from measure import Run, alternate, evict, median, ratios, run, warm
from report import mebibytes, print_table, spread, write_results

from dovetail.engine.text import parse_size

OURS = "dovetail"
PAGES = (
    *(("map", "steady", size, False) for size in (0.25, 1, 16)),
    *(("buffer", "steady", size, False) for size in (0.25, 1, 16)),
    *((read, "steady", 4, False) for read in ("release", "fault")),
    *(("map", flush, 4, False) for flush in ("groups", "uncached", "direct")),
    ("map", "steady", 4, True),
)
"""More ways of reading and writing: how, when the output is flushed, MiB of a block, and whether in huge pages."""
COLUMNS = ("", "s", "CPU s", "MiB", "GB/s", "merge / this")


def contestants(
    family: Sequence[Path], place: Path, args: argparse.Namespace, *, cold: bool, group: Group | None
) -> dict[str, Callable[[], Run]]:
    """Give the merge and the variants of the floor as functions that prepare, run and measure them."""
    recipe = workplace.cabs_recipe(place / "recipe.yml", family)
    out = place / "out"
    commands: dict[str, list[Any]] = {OURS: workplace.dovetail(recipe, out, memory=args.memory, workers=args.workers)}
    variants = [(read, flush, 4, False) for read, flush in itertools.product(("buffer", "map"), ("end", "steady"))]
    for read, flush, size, huge in [*variants, *(PAGES if args.pages else ())]:
        script = [sys.executable, workplace.HERE / "floor_io.py", out, *family]
        options = ["--threads", args.workers, "--read", read, "--flush", flush, "--block", int(size * 2**20)]
        name = f"floor, read by {read}, flush {flush}" + (f", {size:g} MiB" if size != 4 else "")
        commands[name + (", huge" if huge else "")] = [*script, *options, *(["--huge"] if huge else [])]

    def contestant(command: list[Any]) -> Callable[[], Run]:
        def measured() -> Run:
            shutil.rmtree(out, ignore_errors=True)
            (evict if cold else warm)(family)
            return run(command, group=group)

        return measured

    return {name: contestant(command) for name, command in commands.items()}


def race(family: Sequence[Path], place: Path, args: argparse.Namespace, *, cold: bool) -> dict[str, Any]:
    """Measure the merge and the floor in one state of the page cache, and print the table."""
    title = "cold page cache" if cold else "warm page cache"
    with contextlib.ExitStack() as stack:
        group = None
        if cold and args.disk:
            group = stack.enter_context(read_speed_group(place, parse_size(args.disk)))
            title += f", reading at most {args.disk}/s"
        entrants = contestants(family, place, args, cold=cold, group=group)
        entrants[OURS]()  # Not counted: it may compile kernels.
        runs = alternate(entrants, args.repeats)
    floor = min((name for name in runs if name != OURS), key=lambda name: median(runs[name], "wall_s"))
    moved_bytes = workplace.family_bytes(family) * (len(family) + 1) / len(family)
    rows = []
    for name, several in runs.items():
        seconds = median(several, "wall_s")
        rows.append(
            (
                f"{name} <- the floor" if name == floor else name,
                f"{seconds:.2f}",
                f"{median(several, 'cpu_s'):.2f}",
                mebibytes(median(several, "peak_rss_bytes")),
                f"{moved_bytes / seconds / 1e9:.2f}",
                spread(ratios(runs[OURS], several)),
            )
        )
    print_table(f"CABS 64:256, {len(family)} checkpoints, {args.workers} threads, {title}", COLUMNS, rows)
    merging = sorted(
        json.loads(one.tail)["seconds"] / least.wall_s for one, least in zip(runs[OURS], runs[floor], strict=True)
    )
    print(f"The merge without the start and end of the program / the floor: {spread(merging)}")
    return {
        "merging_to_floor": merging,
        "disk_bytes_per_s": parse_size(args.disk) if group else None,
        "moved_bytes": moved_bytes,
        "floor": floor,
        "ratio_to_floor": ratios(runs[OURS], runs[floor]),
        "runs": {name: [one.to_json() for one in several] for name, several in runs.items()},
    }


def main() -> None:
    parser = workplace.arguments(__doc__)
    parser.add_argument("--disk", help="let cold runs read at most so many bytes a second, such as 2GB")
    parser.add_argument("--pages", action="store_true", help="try every way of reading and writing")
    parser.add_argument("--only", choices=("warm", "cold"), help="one state of the page cache only")
    args = parser.parse_args()
    with workplace.workplace(args.work, 8 * 10**9) as place:
        family = workplace.make_family(place / "family", args.size)
        results = {}
        for state in ("warm", "cold"):
            if args.only in (None, state):
                try:
                    results[state] = race(family, place, args, cold=state == "cold")
                except GroupError as error:
                    print(f"Not measured, {state}: {error}")
    write_results("floor", results)


if __name__ == "__main__":
    main()

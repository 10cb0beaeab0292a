"""Methods of Dovetail side by side: what each costs on a base model and two fine-tunes, against task arithmetic.

    python bench/methods.py --size 0.2GB                             # those that mergekit lacks
    python bench/methods.py --size 0.2GB --methods ties tsv_m        # any

Whole processes take turns, with a warm page cache. Those that decompose matrices get the memory that they need, where
that is more than --memory.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import workplace
from measure import CommandError, Run, alternate, median, ratios, run, warm
from peer_methods import SETTINGS, Setting
from report import mebibytes, print_table, spread, write_results

OWN = {
    "consensus_ta": Setting("12", "b"),
    "tsv_m": Setting("12", "b"),
    "iso_c": Setting("12", "b", {"lambda": 0.7}),
}
"""Settings of methods that mergekit lacks, beside CABS."""


def contestant(recipe: Path, out: Path, memory: str, workers: int | None) -> Callable[[], Run]:
    """Give a merge as a function that measures it, within the limit or the least that it needs."""
    limit = [memory]

    def measured() -> Run:
        shutil.rmtree(out, ignore_errors=True)
        try:
            return run(workplace.dovetail(recipe, out, memory=limit[0], workers=workers))
        except CommandError as error:
            found = re.search(r"pass --memory (\d+MiB)", str(error))
            if not found:
                raise
            limit[0] = found[1]
            return measured()

    return measured


def main() -> None:
    parser = workplace.arguments(__doc__, size="0.2GB")
    parser.add_argument("--methods", nargs="+", default=list(OWN), help="methods to run [those that mergekit lacks]")
    args = parser.parse_args()
    known = SETTINGS | OWN
    if unknown := set(args.methods) - set(known):
        sys.exit(f"{', '.join(sorted(unknown))}: no setting; expected some of {', '.join(known)}")
    names = list(dict.fromkeys(["task_arithmetic", *args.methods]))
    with workplace.workplace(args.work, 10**9) as place:
        family = workplace.make_family(place / "family", args.size)
        entrants = {}
        warm(family)
        for name in names:
            recipe = known[name].write(place / f"{name}.yml", name, family, "bfloat16")
            entrants[name] = contestant(recipe, place / "out", args.memory, args.workers)
            entrants[name]()  # compiles what these models need: some kernels serve large tensors alone
        runs = alternate(entrants, args.repeats)
        size_bytes = workplace.family_bytes(family)
    plain = runs["task_arithmetic"]
    rows = [
        (
            name,
            f"{median(several, 'wall_s'):.2f}",
            f"{median(several, 'cpu_s'):.1f}",
            spread(ratios(several, plain), 1),
            mebibytes(median(several, "peak_rss_bytes")),
            str(json.loads(several[-1].tail)["workers"]),
        )
        for name, several in runs.items()
    ]
    columns = ("method", "s", "CPU s", "times as long as task arithmetic", "peak, MiB", "workers")
    print_table(f"{len(family)} checkpoints, {size_bytes / 1e9:.2f} GB, bf16, warm", columns, rows)
    write_results("methods", {name: [one.to_json() for one in several] for name, several in runs.items()})


if __name__ == "__main__":
    main()

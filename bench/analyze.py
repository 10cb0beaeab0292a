"""What analysing models costs beside merging them: both by the installed command, in turns.

    python bench/analyze.py                                  # a base model and 2 fine-tunes of 1.7 GB
    python bench/analyze.py --size demo --repeats 1          # small, to try the script

Each turn merges by ``linear`` and analyses the same models, each in a process of its own, with all inputs in the page
cache. An analysis that took more than 1.5 times a merge would not be run before one.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import run, warm
from report import mebibytes, print_table, spread, write_results
from workplace import arguments, dovetail, make_family, workplace, write_recipe

COLUMNS = ("", "wall, s", "CPU, s", "read, GB", "peak, MiB")


def measure(command: list[str]) -> dict[str, Any]:
    """Run a command once."""
    found = run(command)
    return found.to_json() | {"read_bytes": json.loads(found.tail)["read_bytes"]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--fine-tunes", type=int, default=2, help="how many models there are [2]")
    parser.add_argument("--dtype", default="bfloat16", help="of the models [bfloat16]")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"merge": [], "analyze": []}
    with workplace(options.work, 8 * 10**9 if options.size == "0.85B" else 10**9) as home:
        family = make_family(home, options.size, options.fine_tunes, dtype=options.dtype)
        weights = [{"weight": 1.0}] * len(family)
        recipe = write_recipe(home / "recipe.yml", "linear", None, family, model_parameters=weights)
        merge = dovetail(recipe, home / "out", memory=options.memory, workers=options.workers)
        models = [str(path) for path in family]
        analyze = [merge[0], "analyze", "--base", *models, "--json"]
        analyze += ["--memory", options.memory, "--workers", str(options.workers)]
        for turn in range(options.repeats + 1):  # the first only loads kernels
            for name, command in (("merge", merge), ("analyze", analyze)):
                warm(family)
                measured = measure(command)
                shutil.rmtree(home / "out", ignore_errors=True)
                if turn:
                    found[name].append(measured)

    def middle(name: str, key: str) -> float:
        return statistics.median(each[key] for each in found[name])

    rows = [
        [
            name,
            f"{middle(name, 'wall_s'):.2f}",
            f"{middle(name, 'cpu_s'):.2f}",
            f"{middle(name, 'read_bytes') / 1e9:.2f}",
            mebibytes(middle(name, "peak_rss_bytes")),
        ]
        for name in found
    ]
    print_table(f"A base model and {options.fine_tunes} fine-tunes of size {options.size}", COLUMNS, rows)
    for key in ("wall_s", "cpu_s"):
        ratios = [one[key] / other[key] for one, other in zip(found["analyze"], found["merge"], strict=True)]
        print(f"{key}: analysing takes {spread(ratios)} times a linear merge")
    write_results("analyze", {"options": {**vars(options), "work": str(Path())}, "found": found})


if __name__ == "__main__":
    sys.exit(main())

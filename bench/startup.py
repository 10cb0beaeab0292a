"""Start-up: how long commands take from the prompt to the recipe, the checkpoints, the plan and the first task.

    python bench/startup.py                                # this tree: help, plans and merges
    python bench/startup.py --other OTHER/bin/python       # beside another version, in turn, in one run
    python bench/startup.py --only ties --repeats 15

Every figure counts from the start of the process: seconds, and seconds of processor time, which tell more on a machine
that is busy. Kernels and Python's byte code are in their caches, as after a first run; where a tree is installed does
not matter, because byte code goes to a folder of this script. Models are small, so that reading costs nothing: 147
tensors with the names of the 0.85B model, and the model of the demonstration.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import workplace
from measure import run
from peer_methods import SETTINGS
from report import print_table, write_results

MARKS = ("python", "program", "imports", "recipe", "checkpoints", "plan", "task", "end")
"""What is noted, in the order in which it is reached."""
SHOWN = ("imports", "recipe", "checkpoints", "plan", "task", "end")
"""The marks with a column in the table."""
HEADINGS = ("imported", "recipe read", "opened", "planned", "first task", "end")
METHODS = ("linear", "cabs", "ties")
SMALL = {"layers": 16, "hidden": 128, "intermediate": 256, "vocabulary": 512}
"""A model with the tensors of the 0.85B model, 147, and few elements."""


def recipes(place: Path, family: Sequence[Path]) -> dict[str, Path]:
    """Write a recipe of each method for a family."""
    return {name: SETTINGS[name].write(place / f"{name}.yml", name, family, "bfloat16") for name in METHODS}


def commands(place: Path, word: str) -> dict[str, list[str]]:
    """Make models and recipes; give the commands that are measured by what they are called in the table.

    Parameters
    ----------
    place
        Folder for the models.
    word
        What the names of the commands have in common.

    """
    out = [str(place / "out"), "--overwrite", "--restart", "--memory", "512MiB"]
    found = {"--help": ["--help"], "merge --help": ["merge", "--help"]}
    (place / "small").mkdir()
    small = recipes(place / "small", workplace.make_family(place / "small", "tiny", **SMALL))
    found |= {f"plan, 147 tensors, {method}": ["plan", str(small[method])] for method in METHODS}
    found |= {f"merge, 147 tensors, {method}": ["merge", str(small[method]), *out] for method in METHODS}
    if word in (name := "merge, demo, cabs"):
        (place / "demo").mkdir()
        demo = recipes(place / "demo", workplace.make_family(place / "demo", "demo"))
        found[name] = ["merge", str(demo["cabs"]), *out]
    return {name: words for name, words in found.items() if word in name}


def measured(python: Path, arguments: Sequence[str], place: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a command of the tree that an interpreter has; give seconds and processor seconds at each mark."""
    marks = place / "marks.json"
    script = Path(__file__).with_name("startup_marks.py")
    result = run([python, script, marks, repr(time.monotonic()), *arguments], environment=environment, flush=False)
    found: dict[str, Any] = json.loads(marks.read_text())
    return {**found, "end": (result.wall_s, result.cpu_s)}


def columns(runs: Sequence[Mapping[str, Any]], which: int) -> list[str]:
    """Give the median and the least of each mark: of its seconds (0) or processor seconds (1)."""
    found = [[single[mark][which] for single in runs if mark in single] for mark in SHOWN]
    return [f"{statistics.median(values):.2f} ({min(values):.2f})" if values else "" for values in found]


def trees(others: Iterable[Path]) -> dict[str, Path]:
    """Name the interpreters: that of this script first."""
    return {"this": Path(sys.executable), **{f"other {number}": path for number, path in enumerate(others, 1)}}


def main() -> None:
    parser = workplace.arguments(__doc__, repeats=7)
    parser.add_argument("--other", type=Path, action="append", default=[], metavar="PYTHON", help="of another version")
    parser.add_argument("--only", default="", metavar="WORD", help="only commands with this word")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with workplace.workplace(args.work, 10**9) as place:
        chosen = commands(place, args.only)
        environment = {"PYTHONPYCACHEPREFIX": str(place / "byte-code")}
        for name, words in chosen.items():
            found: dict[str, list[Any]] = {tree: [] for tree in trees(args.other)}
            for repeat in range(args.repeats + 1):
                for tree, python in trees(args.other).items():
                    once = measured(python, words, place, environment)
                    found[tree] += [once] if repeat else []  # the first fills the caches
            results[name] = found
    for tree, python in trees(args.other).items():
        print(f"{tree}: {python}")
    titles = ("Seconds from the start of the process: median (least)", "Processor time until then: median (least)")
    for which, title in enumerate(titles):
        rows = [(name, tree, *columns(runs, which)) for name, each in results.items() for tree, runs in each.items()]
        print_table(title, ("command", "tree", *HEADINGS), rows)
    for name, found in results.items():
        until = "task" if "task" in found["this"][0] else "end"
        ours = statistics.median(each[until][1] for each in found["this"])
        for tree, runs in found.items():
            if tree != "this":
                ratio = statistics.median(each[until][1] for each in runs) / ours
                what = "the first task" if until == "task" else "the end"
                print(f"{name}: until {what}, {tree} takes {ratio:.2f} times the processor time of this tree.")
    write_results("startup", results)


if __name__ == "__main__":
    main()

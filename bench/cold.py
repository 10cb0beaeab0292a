"""What several merges cost that begin at the same time without compiled kernels, beside one: processor time.

    python -m bench.cold                        # four parts of a small CABS merge, and one process, in turn
    python -m bench.cold --processes 8 --method ties

Each run has an empty cache of its own. What the same commands take with a full cache is subtracted, so that what is
left is compiling; if each process compiled for itself, that of N processes would be N times that of one.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:  # scripts beside this one are imported by their names
    sys.path.insert(0, str(Path(__file__).parent))

import workplace
from measure import Run, alternate, median, run
from peer_methods import SETTINGS
from report import print_table, write_results


def parts(recipe: Path, out: Path, count: int, cache: Path) -> Run:
    """Make all parts of a merge at the same time, by a process each."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "dovetail", "merge", str(recipe), str(out), "--memory", "512MiB", "--quiet"]
    each = [shlex.join([*command, "--part", f"{number}/{count}"]) for number in range(1, count + 1)]
    return run(["sh", "-c", f"{' & '.join(each)} & wait"], environment={"XDG_CACHE_HOME": str(cache)})


def cold(recipe: Path, out: Path, count: int, place: Path) -> Run:
    """Do that with an empty cache."""
    with tempfile.TemporaryDirectory(dir=place) as cache:
        found = parts(recipe, out, count, Path(cache))
    if not out.exists():
        sys.exit(f"the parts did not publish: {found.errors}")
    return found


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--processes", type=int, default=4, help="that begin at the same time [4]")
    parser.add_argument("--method", choices=sorted(SETTINGS), default="cabs", help="of the merge [cabs]")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each [2]")
    args = parser.parse_args()
    with workplace.workplace(args.work, 10**9) as place:
        family = workplace.make_family(place, "tiny")
        recipe = SETTINGS[args.method].write(place / "recipe.yml", args.method, family, "bfloat16")
        cache, out, many = place / "cache", place / "out", args.processes
        parts(recipe, out, 1, cache)  # not counted: it fills the cache
        found = alternate(
            {
                "one, cold": lambda: cold(recipe, out, 1, place),
                f"{many}, cold": lambda: cold(recipe, out, many, place),
                "one, warm": lambda: parts(recipe, out, 1, cache),
                f"{many}, warm": lambda: parts(recipe, out, many, cache),
            },
            args.repeats,
        )
    compiling = {
        count: median(found[f"{count}, cold"], "cpu_s") - median(found[f"{count}, warm"], "cpu_s")
        for count in ("one", many)
    }
    rows = [(name, *(f"{median(runs, figure):.1f}" for figure in ("cpu_s", "wall_s"))) for name, runs in found.items()]
    print_table(f"Parts of a small merge by {args.method}", ("processes", "CPU s", "s"), rows)
    print(f"Compiling takes {many} processes {compiling[many] / compiling['one']:.2f} times the processor time of one.")
    write_results("cold", {name: [one.to_json() for one in runs] for name, runs in found.items()})


if __name__ == "__main__":
    main()

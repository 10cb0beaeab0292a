"""What the journal costs: the same merge with it, and with its entries neither written nor flushed.

    python bench/journal.py

Whole processes take turns, warm page cache. The output is made durable in both; only the journal's own writing differs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import workplace
from measure import Run, alternate, median, ratios, run, warm
from report import print_table, spread, write_results

WITHOUT = (
    "from dovetail.engine.run.journal import Journal; from dovetail.engine.cli.main import main; "
    "Journal.append = lambda self, numbers: None; main()"
)
WITH = "from dovetail.engine.run.journal import Journal; from dovetail.engine.cli.main import main; main()"


def main() -> None:
    args = workplace.arguments(__doc__, repeats=7).parse_args()
    with workplace.workplace(args.work, 8 * 10**9) as place:
        family = workplace.make_family(place / "family", args.size)
        recipe = workplace.cabs_recipe(place / "recipe.yml", family)
        command = workplace.dovetail(recipe, place / "out", memory=args.memory, workers=args.workers)
        words = command[command.index("merge") :]

        def contestant(program: str) -> Callable[[], Run]:
            def measured() -> Run:
                shutil.rmtree(place / "out", ignore_errors=True)
                warm(family)
                return run([sys.executable, "-c", program, *words])

            return measured

        entrants = {"with the journal": contestant(WITH), "without": contestant(WITHOUT)}
        entrants["with the journal"]()  # Not counted: it may compile kernels.
        runs = alternate(entrants, args.repeats)
    ratio = ratios(runs["with the journal"], runs["without"])
    rows = [
        (name, f"{median(several, 'wall_s'):.2f}", f"{median(several, 'user_s') + median(several, 'system_s'):.2f}")
        for name, several in runs.items()
    ]
    print_table(f"CABS 64:256, 3 checkpoints of size {args.size}, warm", ("", "s", "CPU s"), rows)
    print(f"\nWith the journal / without: {spread(ratio, 3)}")
    write_results("journal", {"ratio": ratio, "runs": {k: [one.to_json() for one in v] for k, v in runs.items()}})


if __name__ == "__main__":
    main()

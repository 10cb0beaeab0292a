"""How a CABS merge scales with threads: 1, 2, 4 ... workers up to the number of cores.

    python bench/threads.py --size 0.85B

Warm page cache. Whole processes take turns; the start of the program, which no number of workers shortens, is shown
apart, and the speed-up is given with and without it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import workplace
from measure import Run, alternate, median, ratios, run, warm
from report import mebibytes, print_table, spread, write_results


def main() -> None:
    parser = workplace.arguments(__doc__, repeats=5)
    args = parser.parse_args()
    counts = [count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if count <= args.workers]
    merging_s: dict[int, list[float]] = {count: [] for count in counts}
    with workplace.workplace(args.work, 8 * 10**9) as place:
        family = workplace.make_family(place / "family", args.size)
        recipe = workplace.cabs_recipe(place / "recipe.yml", family)

        def contestant(count: int) -> Callable[[], Run]:
            command = workplace.dovetail(recipe, place / "out", memory=args.memory, workers=count)

            def measured() -> Run:
                shutil.rmtree(place / "out", ignore_errors=True)
                warm(family)
                result = run(command)
                done = json.loads(result.tail)
                if done["workers"] != count:
                    print(f"--memory {args.memory} leaves {done['workers']} workers of {count}")
                merging_s[count].append(done["merge_seconds"])
                return result

            return measured

        entrants = {str(count): contestant(count) for count in counts}
        entrants["1"]()  # Not counted: it may compile kernels.
        merging_s[1].clear()
        runs = alternate(entrants, args.repeats)
    rows, results = [], {}
    for count in counts:
        several = runs[str(count)]
        whole = ratios(runs["1"], several)
        alone = sorted(one / many for one, many in zip(merging_s[1], merging_s[count], strict=True))
        start_s = median(several, "wall_s") - sorted(merging_s[count])[len(several) // 2]
        results[count] = {
            "speed_up": whole,
            "speed_up_without_start": alone,
            "merging_s": merging_s[count],
            "runs": [one.to_json() for one in several],
        }
        rows.append(
            (
                str(count),
                f"{median(several, 'wall_s'):.2f}",
                f"{start_s:.2f}",
                f"{median(several, 'cpu_s'):.2f}",
                mebibytes(median(several, "peak_rss_bytes")),
                spread(whole),
                spread(alone),
            )
        )
    print_table(
        f"CABS 64:256, {len(family)} checkpoints of size {args.size}, warm",
        ("workers", "s", "start, s", "CPU s", "MiB", "speed-up", "speed-up without start"),
        rows,
    )
    write_results("threads", results)


if __name__ == "__main__":
    main()

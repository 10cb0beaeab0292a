"""Many tensors: how long 50,000 take to plan, and what each costs in a merge beyond its bytes.

    python bench/tensors.py                     # 50,000 tensors, 64 x 64 each, three models: 1.3 GB of disk
    python bench/tensors.py --tensors 5000      # a tenth
    python bench/tensors.py --count 1000000     # as many as a checkpoint may have, of no size: planning, parts, status

The names are those of a mixture of experts; the values are few and repeated. The floor is the merge of the same bytes
in a thousandth as many tensors. Planning is timed in this process, merging in one of its own, without its start.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import workplace
from many_tensors import expert_names, report_many, write_checkpoint
from measure import run, warm
from report import print_table, spread, write_results

from dovetail.engine.actions.convert import plan_conversion
from dovetail.engine.planning.builder import make_plan

SIDE = 64
SHARD_BYTES = 200 << 20


def plain_names(count: int) -> Iterator[str]:
    """Name as many weights as there are, whatever their size."""
    return (f"model.layers.{number}.weight" for number in range(count))


def write_model(folder: Path, names: list[str], rows: int, seed: int, base: Any = None) -> Any:
    """Write a checkpoint of equal tensors in bfloat16; give the values that its tensors repeat."""
    random = np.random.default_rng(seed)
    values = random.integers(0x3C00, 0x3D00, SIDE * SIDE, np.uint16) if base is None else base.copy()
    if base is not None:
        changed = random.random(values.size) < 0.5
        values[changed] ^= random.integers(1, 16, values.size, np.uint16)[changed]
    size = rows * SIDE * 2

    def fill(out: BinaryIO, tensors: int) -> None:
        block, left = values.tobytes() * min(256, rows // SIDE * tensors), size * tensors
        while left > 0:
            out.write(block[: min(left, len(block))])
            left -= len(block)

    write_checkpoint(folder, names, (rows, SIDE), max(1, SHARD_BYTES // size), fill)
    return values


def make_family(place: Path, names: list[str], rows: int) -> tuple[list[Path], Path]:
    """Write a base model, two fine-tunes and a recipe that merges them by CABS."""
    base = write_model(place / "base", names, rows, 0)
    for number in (1, 2):
        write_model(place / f"tune{number}", names, rows, number, base)
    family = [place / "base", place / "tune1", place / "tune2"]
    return family, workplace.cabs_recipe(place / "recipe.yml", family)


def planning_seconds(make: Any, repeats: int) -> list[float]:
    """Time planning, ascending."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        plan = make()
        seconds.append(time.perf_counter() - started)
        del plan
    return sorted(seconds)


def merge_seconds(recipe: Path, out: Path, family: list[Path], args: Any) -> tuple[list[float], float]:
    """Time the merge itself, from its first task to its last, ascending; and give the whole process's processor time.

    The latter is the median, of planning, finishing and starting up too: it tells more on a machine that is busy.
    """
    seconds, processor = [], []
    for _ in range(args.repeats):
        warm(family)
        result = run(workplace.dovetail(recipe, out, memory=args.memory, workers=args.workers))
        seconds.append(json.loads(result.tail)["merge_seconds"])
        processor.append(result.cpu_s)
    return sorted(seconds), statistics.median(processor)


def main() -> None:
    parser = workplace.arguments(__doc__)
    parser.add_argument("--tensors", type=int, default=50_000, help="tensors of the checkpoint [50000]")
    parser.add_argument("--count", type=int, help="instead: what so many tensors of no size cost in commands")
    parser.set_defaults(memory="1GiB")
    args = parser.parse_args()
    if args.count:
        with workplace.workplace(args.work, 4000 * args.count) as place:
            report_many(place, args.count)
        return
    few = max(1, args.tensors // 1000)
    size = args.tensors * SIDE * SIDE * 2
    with workplace.workplace(args.work, 9 * size) as place:
        many, many_recipe = make_family(place / "many", list(expert_names(args.tensors)), SIDE)
        large, large_recipe = make_family(place / "large", list(plain_names(few)), SIDE * args.tensors // few)
        plans = {
            "merge of three models": planning_seconds(lambda: make_plan(many_recipe), args.repeats),
            "conversion of one": planning_seconds(lambda: plan_conversion(str(many[0])), args.repeats),
        }
        print_table(
            f"Planning {args.tensors:,} tensors",
            ("", "s"),
            [(name, spread(seconds)) for name, seconds in plans.items()],
        )
        slow, slow_cpu = merge_seconds(many_recipe, place / "out", many, args)
        floor, floor_cpu = merge_seconds(large_recipe, place / "out", large, args)
    middle, least = statistics.median(slow), statistics.median(floor)
    overhead = (middle - least) / args.tensors
    print_table(
        f"Merging by CABS, {4 * size / 1e9:.2f} GB read and written",
        ("", "s", "ratio", "tensors a second", "processor s, all in all"),
        [
            (
                f"{args.tensors:,} tensors",
                spread(slow),
                f"{middle / least:.2f}",
                f"{args.tensors / middle:,.0f}",
                f"{slow_cpu:.2f}",
            ),
            (f"{few:,} tensors", spread(floor), "1", f"{few / least:,.0f}", f"{floor_cpu:.2f}"),
        ],
    )
    print(
        f"Beyond its bytes, a tensor takes {overhead * 1e6:.0f} us of the merge, and "
        f"{(slow_cpu - floor_cpu) / args.tensors * 1e6:.0f} us of processor time from planning to the manifest."
    )
    figures = {"merge_s": slow, "floor_s": floor, "cpu_s": slow_cpu, "floor_cpu_s": floor_cpu}
    write_results("tensors", {"tensors": args.tensors, "plan_s": plans, **figures})


if __name__ == "__main__":
    main()

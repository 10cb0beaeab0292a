"""Rows of millions of elements, which methods that rank by rows need whole: time and memory for 2 models and for 12.

    python bench/long_rows.py                        # rows of 1 and 4 million elements, about 2 GB of disk
    python bench/long_rows.py --columns 1000000

One matrix in bfloat16, merged by one worker. `ties`, which needs no whole rows, is shown beside.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import workplace
from measure import run, warm
from report import mebibytes, print_table, write_results

METHODS = ("ties", "della", "della_linear")
COUNTS = (2, 12)
ROWS = 4


def make(folder: Path, columns: int, count: int) -> list[Path]:
    """Write checkpoints of one matrix of random bfloat16 numbers."""
    folder.mkdir(parents=True)
    size = 2 * ROWS * columns
    header = json.dumps({"w": {"dtype": "BF16", "shape": [ROWS, columns], "data_offsets": [0, size]}}).encode()
    paths = [folder / f"{index}.safetensors" for index in range(count)]
    for index, path in enumerate(paths):
        chance = np.random.default_rng(index)
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(ROWS):
                values = chance.standard_normal(columns, np.float32) * np.float32(0.02)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return paths


def main() -> None:
    parser = workplace.arguments(__doc__, repeats=1)
    parser.set_defaults(memory="2GiB")
    parser.add_argument("--columns", type=int, nargs="+", default=[2**20, 2**22], help="elements of a row")
    args = parser.parse_args()
    rows, results = [], []
    with workplace.workplace(args.work, 3 * ROWS * max(args.columns) * (max(COUNTS) + 2)) as place:
        for columns in args.columns:
            family = make(place / str(columns), columns, max(COUNTS) + 1)
            for method in METHODS:
                for count in COUNTS:
                    parameters = {"density": 0.5, "weight": 1 / count}
                    recipe = workplace.write_recipe(
                        place / "recipe.yml",
                        method,
                        family[0],
                        family[1 : count + 1],
                        parameters=parameters if method == "ties" else parameters | {"epsilon": 0.2},
                    )
                    warm(family)
                    shutil.rmtree(place / "out", ignore_errors=True)
                    result = run(workplace.dovetail(recipe, place / "out", memory=args.memory, workers=1))
                    done = json.loads(result.tail)
                    rows.append(
                        (
                            f"{columns:,} {method}",
                            str(count),
                            mebibytes(result.peak_rss_bytes),
                            f"{done['merge_seconds']:.1f}",
                        )
                    )
                    results.append({"columns": columns, "method": method, "models": count, "run": result.to_json()})
            shutil.rmtree(place / str(columns))
    print_table("Rows by length and method", ("", "models", "peak, MiB", "merge, s"), rows)
    write_results("long_rows", results)


if __name__ == "__main__":
    main()

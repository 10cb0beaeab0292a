"""Stores of task vectors: their sizes, and what a merge from a store costs beside a merge of the models.

    python bench/vectors.py                                  # a base model and 3 fine-tunes of 1.7 GB
    python bench/vectors.py --size demo --repeats 1          # small, to try the script
    python bench/vectors.py --densities 64:256               # of one density alone

For CABS at 64:256 and at 3:32, a store is made in each codec. Then the same recipe is merged from the models and from
the store, in turns, each in a process of its own, with all inputs in the page cache. Bytes read are those of the inputs
as they are stored. Both outputs must have the same tensors.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import run, warm
from report import print_table, spread, write_results
from workplace import arguments, cabs_recipe, digest, dovetail, family_bytes, make_family, workplace

DENSITIES = ("64:256", "3:32")
SIZE_COLUMNS = ("", "marks, MB", "values, MB", "store, MB", "of the models, %", "made in, s", "peak, MiB")
COST_COLUMNS = (
    "",
    "models, s",
    "store, s",
    "ratio",
    "models, CPU s",
    "store, CPU s",
    "ratio",
    "read, GB",
    "store, GB",
    "ratio",
    "read and written",
)


def stored_bytes(store: Path, kind: str) -> int:
    """Give the size of all arrays of a kind: ``marks`` or ``values``."""
    return sum(path.stat().st_size for path in store.glob(f"*.{kind}.*/*"))


def whole_bytes(store: Path) -> int:
    """Give the size of all files of a store."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def touch(store: Path) -> None:
    """Bring a store into the page cache."""
    for path in store.rglob("*"):
        if path.is_file():
            path.read_bytes()


def make_store(recipe: Path, store: Path, codec: str, options: argparse.Namespace, models_bytes: int) -> dict[str, Any]:
    """Make a store, and measure it."""
    shutil.rmtree(store, ignore_errors=True)
    command = dovetail(recipe, store, memory=options.memory, workers=options.workers)
    command[1] = "vectors"
    made = run([*command, "--codec", codec])
    return {
        **{kind: stored_bytes(store, kind) for kind in ("marks", "values")},
        "bytes": whole_bytes(store),
        "share": whole_bytes(store) / models_bytes,
        **made.to_json(),
    }


def measure(recipe: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Merge once."""
    shutil.rmtree(out, ignore_errors=True)
    found = run(dovetail(recipe, out, memory=options.memory, workers=options.workers))
    done = json.loads(found.tail)
    return found.to_json() | {key: done[key] for key in ("read_bytes", "written_bytes", "merge_seconds")}


def compare(
    recipe: Path, store: Path, family: Sequence[Path], home: Path, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Merge from the models and from their store, in turns; the first turn only loads kernels and checks the result."""
    named = home / "from_store.yml"
    named.write_text(f"{recipe.read_text()}vectors: {store}\n")
    found: dict[str, list[dict[str, Any]]] = {"models": [], "store": []}
    outputs = []
    for turn in range(options.repeats + 1):
        for kind, path in (("models", recipe), ("store", named)):
            warm(family if kind == "models" else family[:1])
            if kind == "store":
                touch(store)
            measured = measure(path, home / "out", options)
            if turn:
                found[kind].append(measured)
            else:
                outputs.append(digest(home / "out"))
    if outputs[0] != outputs[1]:
        sys.exit(f"{recipe} gives other tensors from {store} than from the models; expected the same bits")
    return found


def cost_row(label: str, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write one comparison."""

    def ratios(*keys: str) -> list[float]:
        pairs = zip(found["store"], found["models"], strict=True)
        return [sum(one[key] for key in keys) / sum(other[key] for key in keys) for one, other in pairs]

    def middle(kind: str, key: str) -> float:
        return statistics.median(each[key] for each in found[kind])

    return [
        label,
        f"{middle('models', 'wall_s'):.2f}",
        f"{middle('store', 'wall_s'):.2f}",
        spread(ratios("wall_s")),
        f"{middle('models', 'cpu_s'):.2f}",
        f"{middle('store', 'cpu_s'):.2f}",
        spread(ratios("cpu_s")),
        f"{middle('models', 'read_bytes') / 1e9:.3f}",
        f"{middle('store', 'read_bytes') / 1e9:.3f}",
        f"{ratios('read_bytes')[0]:.2f}",
        f"{ratios('read_bytes', 'written_bytes')[0]:.2f}",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--fine-tunes", type=int, default=3, help="how many models are merged [3]")
    parser.add_argument("--codecs", nargs="+", default=["blosc", "none"], help="of the stores [blosc none]")
    parser.add_argument("--densities", nargs="+", default=DENSITIES, help="n:m of the stores [64:256 3:32]")
    options = parser.parse_args()
    sizes: dict[str, dict[str, Any]] = {}
    costs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with workplace(options.work, 12 * 10**9 if options.size == "0.85B" else 10**9) as home:
        family = make_family(home, options.size, options.fine_tunes)
        models_bytes = family_bytes(family[1:])
        for density in options.densities:
            n, m = map(int, density.split(":"))
            recipe = cabs_recipe(home / "recipe.yml", family, n, m, weight=0.8)
            for codec in options.codecs:
                label, store = f"{density} {codec}", home / "store"
                sizes[label] = make_store(recipe, store, codec, options, models_bytes)
                costs[label] = compare(recipe, store, family, home, options)
    rows = [
        [
            label,
            *(f"{size[key] / 1e6:.2f}" for key in ("marks", "values", "bytes")),
            f"{size['share']:.1%}",
            f"{size['wall_s']:.1f}",
            f"{size['peak_rss_bytes'] / 2**20:.0f}",
        ]
        for label, size in sizes.items()
    ]
    print_table(f"Stores of {options.fine_tunes} fine-tunes of size {options.size}", SIZE_COLUMNS, rows)
    print_table(
        "Merges from the models and from their store", COST_COLUMNS, [cost_row(*each) for each in costs.items()]
    )
    write_results("vectors", {"options": {**vars(options), "work": ""}, "sizes": sizes, "costs": costs})


if __name__ == "__main__":
    main()

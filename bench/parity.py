"""Parity: random recipes, merged by mergekit and by Dovetail, computed and stored in float32.

    python bench/parity.py                          # 60 recipes of every method
    python bench/parity.py --recipes 500 --seed 7 --methods slerp ties
    python bench/parity.py --oracles                # mergekit against the tests' oracles instead of Dovetail

Differences are in units in the last place of the largest magnitude among an element's operands: the models' and the
base's values, what is added up, the result.
Where one is more than 2, mergekit merges the recipe in float64 as well. The difference is its own rounding if that
result is within 5 units of ours, or nearer to ours than to its result in float32; else it is unexplained, the recipe is
printed, and the script fails.

The checkpoints are tiny Llamas, GPT-2s and Mambas in 32 and 16 bits. Methods with random masks are compared by
``parity_random.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the tests' oracles

import numpy as np
import yaml
from numpy.typing import NDArray
from peers import PACKAGES, peer_python
from report import print_table, write_results

from dovetail.engine import merge
from dovetail.engine.errors import DovetailError
from dovetail.engine.methods.registry import METHODS
from tests.checkpoints import read_output
from tests.oracles import ORACLES, RANDOM
from tests.oracles.random_recipes import FAMILIES, random_recipes
from tests.oracles.recipes import merge_recipe
from tests.oracles.result import Result, spacing

DRIVER = Path(__file__).with_name("mergekit_batch.py")
Tensors = Mapping[str, NDArray[Any]]


class Mergekit:
    """A process that merges recipes by mergekit."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [python, DRIVER], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def merge(self, recipe: Mapping[str, Any]) -> Tensors | str:
        """Merge a recipe; give what comes out, or the error."""
        self.count += 1
        path, out = self.folder / f"theirs{self.count}.yml", self.folder / f"theirs{self.count}"
        path.write_text(yaml.safe_dump(dict(recipe)))
        error = self.ask(recipe=str(path), out=str(out))["error"]
        return str(error) if error else read_output(out)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and give the answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Row:
    """What is found about one method."""

    method: str
    compared: int = 0
    refused: int = 0
    elements: int = 0
    worst: float = 0
    beyond: int = 0
    worst_double: float = 0
    exceptions: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)


def greatest(one: Tensors, other: Tensors, results: Mapping[str, Result]) -> float:
    """Give the greatest difference in units of the last place; infinite where tensors or shapes are not the same."""
    if set(one) != set(other) or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    found = [0.0]
    for name, result in results.items():
        a, b = one[name].astype(np.float64), other[name].astype(np.float64)
        operands = np.maximum(result.operands, np.maximum(np.abs(a), np.abs(b)))
        found.append(float(np.max(np.abs(a - b) / spacing(operands), initial=0)))
    return max(found)


def compare(row: Row, recipe: Mapping[str, Any], mergekit: Mergekit, place: Path, oracles: bool) -> None:
    """Merge a recipe by both, and note the difference."""
    theirs = mergekit.merge(recipe)
    path = place / f"{row.method}-{row.compared + row.refused}.yml"
    path.write_text(yaml.safe_dump(dict(recipe)))
    if isinstance(theirs, str):
        row.refused += 1
        print(f"{path.stem}: mergekit refuses it: {theirs[:150]}")
        return
    row.compared += 1
    try:
        results = merge_recipe(path)
        ours: Tensors = {name: result.output for name, result in results.items()}
        if not oracles:
            merge(path, place / path.stem)
            ours = read_output(place / path.stem)
    except (DovetailError, ZeroDivisionError) as error:
        row.unexplained.append(f"{path.stem}: mergekit merges it, but: {error}\n{path.read_text()}")
        return
    row.elements += sum(tensor.size for tensor in ours.values())
    units = greatest(ours, theirs, results)
    row.worst = max(row.worst, units)
    if units <= 2:
        return
    row.beyond += 1
    double = mergekit.merge({**recipe, "dtype": "float64", "out_dtype": "float32"})
    assert not isinstance(double, str)
    to_double, between_theirs = greatest(ours, double, results), greatest(theirs, double, results)
    row.worst_double = max(row.worst_double, to_double)
    text = f"{path.stem}: {units:.3g} units; {to_double:.3g} to mergekit's result in float64, which is "
    row.exceptions.append(f"{text}{between_theirs:.3g} from its own in float32")
    if to_double > max(5, between_theirs):
        row.unexplained.append(f"{row.exceptions[-1]}\n{path.read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of an environment with mergekit [one is made]")
    parser.add_argument("--recipes", type=int, default=60, help="recipes of each method [60]")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other recipes [0]")
    parser.add_argument("--methods", nargs="+", help="methods [all that both have, but random ones]")
    parser.add_argument("--oracles", action="store_true", help="compare with the tests' oracles instead of Dovetail")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    methods = [name for name in ORACLES if name not in RANDOM and (args.oracles or name in METHODS)]
    if unknown := set(args.methods or ()) - set(methods):
        sys.exit(f"{', '.join(sorted(unknown))}: cannot be compared; expected some of {', '.join(methods)}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for family in FAMILIES:
            family.make(place)
        mergekit = Mergekit(args.python or peer_python(), place)
        for method in args.methods or methods:
            rows.append(row := Row(method))
            for recipe in random_recipes(method, args.recipes, args.seed):
                compare(row, recipe, mergekit, place, args.oracles)
        mergekit.close()
    for row in rows:
        for text in (*row.exceptions, *row.unexplained):
            print(text)
    print_table(
        f"{'The oracles' if args.oracles else 'Dovetail'} and mergekit {PACKAGES[1][10:]}: random recipes in float32, "
        f"seed {args.seed}",
        ("method", "recipes", "elements", "greatest, units", "beyond 2", "those, to its float64", "unexplained"),
        (
            (
                row.method,
                str(row.compared),
                f"{row.elements:,}",
                f"{row.worst:.3g}",
                str(row.beyond),
                f"{row.worst_double:.3g}" if row.beyond else "-",
                str(len(row.unexplained)),
            )
            for row in rows
        ),
    )
    write_results("parity", {"seed": args.seed, "oracles": args.oracles, "methods": [vars(row) for row in rows]})
    if any(row.unexplained for row in rows):
        sys.exit("differences remain unexplained")


if __name__ == "__main__":
    main()

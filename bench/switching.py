"""The corpus of public recipes, merged by mergekit and by Dovetail on tiny models.

    python bench/switching.py                         # compare, and print what differs
    python bench/switching.py --recipes ties slerp-2  # some of them
    python bench/switching.py --write                 # write what mergekit makes, for tests/switching

The recipes are in ``tests/switching/recipes``, with neutral names for their models. Each is merged as it is written,
for names, shapes, dtypes, configuration and tokenizer, and once more in float32, for the values; random masks then keep
everything.
``tests/switching/test_switching.py`` compares Dovetail with what ``--write`` has written, without mergekit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the tests' models

import numpy as np
from numpy.typing import NDArray
from peers import PACKAGES, peer_python
from report import print_table

from dovetail.engine import merge
from dovetail.engine.errors import DovetailError
from tests.checkpoints import read_output
from tests.switching.comparing import described, projections, tokens_of
from tests.switching.corpus import Entry, read_corpus
from tests.switching.exceptions import MERGED
from tests.switching.expected import EXPECTED, VALUES, but_for_documented, differences, values_differ
from tests.switching.making import make_models

DRIVER = Path(__file__).with_name("mergekit_recipes.py")


class Mergekit:
    """A process that merges recipes by mergekit's own commands."""

    def __init__(self, python: Path) -> None:
        # Sets of models are gone through in an order that depends on this seed.
        environment = os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            [python, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )

    def merge(self, place: Path, recipe: Path, out: Path) -> str | None:
        """Merge a recipe; give the error, if there is one, in one line without paths."""
        assert self.process.stdin
        assert self.process.stdout
        request = {"folder": str(place), "recipe": str(recipe), "out": str(out)}
        self.process.stdin.write(json.dumps(request) + "\n")
        error = json.loads(self.process.stdout.readline())["error"]
        return None if error is None else re.sub(r"\S*/\S*", "PATH", " ".join(error.split()))[:160]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def by_mergekit(entry: Entry, place: Path, root: Path, mergekit: Mergekit) -> tuple[dict[str, Any], Any]:
    """Merge a recipe by mergekit: what it writes, and the projections of its values in float32."""
    written = place / f"{entry.name}.yml"
    written.write_text(entry.text)
    error = mergekit.merge(place, written, root / f"{entry.name}-theirs")
    if error is not None:
        return {"error": error}, None
    made = described(entry, root / f"{entry.name}-theirs", place / "model-a")
    if entry.first_model is not None:
        del made["prompt"]  # by the tokenizer of any model, another in every run
    exact = place / f"{entry.name}-float32.yml"
    exact.write_text(entry.in_float32())
    error = mergekit.merge(place, exact, root / f"{entry.name}-theirs32")
    assert error is None, (entry.name, error)
    out = root / f"{entry.name}-theirs32"
    return made, projections(read_output(out), tokens_of(out))


def by_dovetail(entry: Entry, place: Path, root: Path, values: Any, theirs: dict[str, Any]) -> list[str]:
    """Merge a recipe by Dovetail, and say how what it writes differs, beside what is documented."""
    try:
        merge(place / f"{entry.name}.yml", root / f"{entry.name}-ours")
    except DovetailError as error:
        return [] if "error" in theirs else [f"refused: {error}"]
    if "error" in theirs:
        return [] if entry.name in MERGED else [f"merged, although mergekit refuses it: {theirs['error']}"]
    made = described(entry, root / f"{entry.name}-ours", place / "model-a")
    found = differences(but_for_documented(entry, theirs, made), made)
    if values is None:
        return found
    out = root / f"{entry.name}-ours32"
    merge(place / f"{entry.name}-float32.yml", out)
    return [*found, *values_differ(read_output(out), out, values)]


def write(expected: dict[str, Any], values: dict[str, NDArray[np.float64]], names: set[str]) -> None:
    """Write what has been found, and keep what is there of the corpus's other recipes."""
    if EXPECTED.exists():
        with np.load(VALUES) as stored:
            values = {key: stored[key] for key in stored if key in names and key not in expected} | values
        expected = {key: each for key, each in json.loads(EXPECTED.read_text()).items() if key in names} | expected
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(expected[key], sort_keys=True)}" for key in sorted(expected))
    EXPECTED.write_text(f"{{\n{lines}\n}}\n")
    np.savez_compressed(VALUES, **dict(sorted(values.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="interpreter of an environment with mergekit [one is made]")
    parser.add_argument("--recipes", nargs="+", help="names of recipes [all]")
    parser.add_argument("--write", action="store_true", help="write what mergekit makes, for the tests")
    args = parser.parse_args()
    corpus = [entry for entry in read_corpus() if not args.recipes or entry.name in args.recipes]
    expected: dict[str, Any] = {}
    values: dict[str, NDArray[np.float64]] = {}
    rows = []
    mergekit = Mergekit(args.python or peer_python())
    for entry in corpus:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            place = make_models(entry, root)
            expected[entry.name], found = by_mergekit(entry, place, root, mergekit)
            if found is not None:
                values[entry.name] = found
            for text in by_dovetail(entry, place, root, found, expected[entry.name]):
                rows.append((entry.name, text))
                print(f"{entry.name}: {text.replace(temporary, '')}", flush=True)
        if args.write:
            write(expected, values, {entry.name for entry in read_corpus()})
    mergekit.close()
    accepted = [name for name, made in expected.items() if "error" not in made]
    refused = sum(text.startswith("refused") for _, text in rows)
    print_table(
        f"Public recipes: Dovetail and mergekit {PACKAGES[1][10:]}",
        ("recipes", "mergekit accepts", "of these Dovetail refuses", "differ otherwise", "values compared"),
        [tuple(map(str, (len(corpus), len(accepted), refused, len(rows) - refused, len(values))))],
    )
    if rows:
        sys.exit("differences remain that docs/switching.md does not have")


if __name__ == "__main__":
    main()

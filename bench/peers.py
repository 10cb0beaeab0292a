"""Dovetail beside mergekit: whole processes on the same checkpoints with the same recipe, in turn.

    python bench/peers.py                        # 3 x 1.7 GB, every method that both have
    python bench/peers.py --methods cabs linear --repeats 5
    python bench/peers.py --dtype float32        # models, arithmetic and output in float32
    python bench/peers.py --fine-tunes 4         # methods of two models keep to two
    python bench/peers.py --check --size demo    # compare results instead of speed

mergekit comes from the package index into an environment of its own under ``bench/.cache`` (about 2 GB). It runs with
its default options for the processor, and with ``HF_HUB_OFFLINE=1``, which spares it look-ups on the network. CABS is
not among its methods: it is registered by ``mergekit_cabs.py``.

Everything counts from the start of the process to its end. Dovetail's output is then durable; mergekit leaves part of
its output in the page cache, and the time that the system takes afterwards to write it is shown but not counted.
Before the measured runs, each merges once without a clock, so that neither compiles or loads anything for the first
time: mergekit a tiny model, and Dovetail the measured ones, because it has kernels for large tensors alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workplace
from measure import Run, alternate, median, ratios, run, warm
from peer_methods import SETTINGS
from report import mebibytes, print_table, spread, write_results

ENVIRONMENT = workplace.HERE / ".cache" / "mergekit"
# Torch goes first and pinned: an unpinned torch would bring gigabytes of CUDA.
PACKAGES = ("torch==2.13.0", "mergekit==0.1.5")
COLUMNS = (
    *("method", "ours, s", "theirs, s", "times faster", "ours, CPU s", "theirs"),
    *("ours, MiB", "theirs", "times lower", "their flush, s"),
)
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def peer_python() -> Path:
    """Make mergekit's environment if it is not there yet; give its interpreter."""
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "complete"
    if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
        print(f"Installing {' and '.join(PACKAGES)} into {ENVIRONMENT}")
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        for package in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        stamp.write_text(" ".join(PACKAGES))
    return python


def common_methods(python: Path) -> list[str]:
    """Name the methods that both have, CABS included, in the order of `SETTINGS`."""
    ours = json.loads(_output(Path(sys.executable).with_name("dovetail"), "methods", "--json"))
    script = "from mergekit.merge_methods.registry import registered_methods as r; print(*(m.spec.name for m in r()))"
    theirs = {*_output(python, "-c", script).split(), "cabs"}
    both = theirs & {method["name"] for method in ours}
    if missing := both - set(SETTINGS):
        print(f"No setting for {', '.join(sorted(missing))}: add one to peer_methods.py")
    return [name for name in SETTINGS if name in both]


def _output(*command: Any) -> str:
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def mergekit(python: Path, method: str, recipe: Path, out: Path) -> list[str]:
    """Give the command line of a merge by mergekit."""
    if method == "cabs":
        return [str(python), str(workplace.HERE / "mergekit_cabs.py"), str(recipe), str(out)]
    return [str(python.with_name("mergekit-yaml")), str(recipe), str(out)]


def contestants(
    python: Path, method: str, recipe: Path, place: Path, args: argparse.Namespace
) -> dict[str, Callable[[], Run]]:
    """Give both merges of one recipe as functions that run and measure them."""
    commands = {
        "dovetail": workplace.dovetail(recipe, place / "dovetail", memory=args.memory, workers=args.workers),
        "mergekit": mergekit(python, method, recipe, place / "mergekit"),
    }

    def contestant(name: str) -> Callable[[], Run]:
        def measured() -> Run:
            shutil.rmtree(place / name, ignore_errors=True)
            return run(commands[name], environment=OFFLINE)

        return measured

    return {name: contestant(name) for name in commands}


def race(python: Path, methods: list[str], place: Path, args: argparse.Namespace) -> None:
    """Measure every method, print the table and write the results."""
    tiny = workplace.make_family(place / "tiny", "tiny", args.fine_tunes, dtype=args.dtype)
    family = workplace.make_family(place / "family", args.size, args.fine_tunes, dtype=args.dtype)
    results, rows = {}, []
    for method in methods:
        recipes = [
            SETTINGS[method].write(place / f"{method}-{models[0].parent.name}.yml", method, models, args.dtype)
            for models in (tiny, family)
        ]
        small, large = (contestants(python, method, recipe, place, args) for recipe in recipes)
        small["mergekit"]()
        warm(family)
        large["dovetail"]()
        runs = alternate(large, args.repeats)
        ours, theirs = runs["dovetail"], runs["mergekit"]
        faster = ratios(theirs, ours)
        smaller = ratios(theirs, ours, "peak_rss_bytes")
        results[method] = {
            "recipe": recipes[1].read_text(),
            "runs": {name: [one.to_json() for one in several] for name, several in runs.items()},
            "times_faster": faster,
            "times_less_cpu": ratios(theirs, ours, "cpu_s"),
            "times_less_memory": smaller,
        }
        rows.append(
            (
                method,
                *(f"{median(side, 'wall_s'):.2f}" for side in (ours, theirs)),
                spread(faster, 1),
                *(f"{median(side, 'cpu_s'):.1f}" for side in (ours, theirs)),
                *(mebibytes(median(side, "peak_rss_bytes")) for side in (ours, theirs)),
                spread(smaller, 1),
                f"{median(theirs, 'flush_s'):.1f}",
            )
        )
        print(f"{method}: {rows[-1][3]} times faster, peak memory {rows[-1][8]} times lower", flush=True)
    size_bytes = workplace.family_bytes(family)
    print_table(
        f"Dovetail and mergekit {PACKAGES[1][10:]}: {len(family)} checkpoints, {size_bytes / 1e9:.2f} GB, "
        f"{args.dtype}, warm",
        COLUMNS,
        rows,
    )
    settings = {"dtype": args.dtype, "fine_tunes": args.fine_tunes, "memory": args.memory, "workers": args.workers}
    name = "-".join(("peers", *_kinds(args)))
    write_results(name, {"input_bytes": size_bytes, **settings, "methods": results})


def _kinds(args: argparse.Namespace) -> list[str]:
    """Name what is not as by default, for the name of the results."""
    return [args.dtype] * (args.dtype != "bfloat16") + [f"{args.fine_tunes}-fine-tunes"] * (args.fine_tunes != 2)


def check(python: Path, methods: list[str], place: Path, args: argparse.Namespace) -> None:
    """Compare the results of both, computed and stored in float32."""
    family = workplace.make_family(place / "family", args.size, args.fine_tunes, dtype="float32")
    rows, results = [], {}
    for method in methods:
        recipe = SETTINGS[method].write(place / f"{method}.yml", method, family, "float32")
        for contestant in contestants(python, method, recipe, place, args).values():
            contestant()
        figures = _compare(place / "dovetail", place / "mergekit")
        results[method] = figures
        remark = "random masks: compare statistics" if SETTINGS[method].random else ""
        rows.append((method, *(f"{value:.3g}" for value in figures.values()), remark))
    print_table(
        f"Dovetail and mergekit {PACKAGES[1][10:]}: results in float32, size {args.size}",
        ("method", *results[methods[0]], ""),
        rows,
    )
    write_results("peers-check", results)


def _compare(ours: Path, theirs: Path) -> dict[str, float]:
    """Compare two checkpoints: greatest difference, and the part of the elements that differ by more than rounding."""
    import numpy as np
    from safetensors import safe_open

    places = {}
    for path in theirs.glob("*.safetensors"):
        with safe_open(path, "numpy") as shard:
            places |= dict.fromkeys(shard.keys(), path)
    greatest, differing, elements = 0.0, 0, 0
    for path in ours.glob("*.safetensors"):
        with safe_open(path, "numpy") as shard:
            for name in shard.keys():  # noqa: SIM118 - an open file is not a mapping
                mine = shard.get_tensor(name)
                with safe_open(places.pop(name), "numpy") as other:
                    difference = np.abs(mine.astype(np.float64) - other.get_tensor(name))
                greatest = max(greatest, float(difference.max(initial=0)))
                differing += int((difference > 1e-6 * (np.abs(mine) + 1e-3)).sum())
                elements += mine.size
    if places:
        raise SystemExit(f"mergekit's output has tensors that ours lacks: {', '.join(sorted(places))}")
    return {"greatest difference": greatest, "part that differs": differing / elements}


def main() -> None:
    parser = workplace.arguments(__doc__)
    parser.add_argument("--methods", nargs="+", help="methods to run [all that both have]")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the checkpoints")
    parser.add_argument("--fine-tunes", type=int, default=2, help="checkpoints besides the base model [2]")
    parser.add_argument("--check", action="store_true", help="compare results instead of speed")
    args = parser.parse_args()
    os.environ.update(OFFLINE)
    python = peer_python()
    methods = common_methods(python)
    if unknown := set(args.methods or ()) - set(methods):
        sys.exit(f"{', '.join(sorted(unknown))}: not a method of both; expected some of {', '.join(methods)}")
    if args.fine_tunes < 2:
        sys.exit(f"--fine-tunes {args.fine_tunes}; expected 2 or more; the recipes merge two at least")
    needed_bytes = 11 * 10**9 * (args.fine_tunes + 3) // 5 * (2 if args.dtype == "float32" else 1)
    with workplace.workplace(args.work, needed_bytes) as place:
        (check if args.check else race)(python, args.methods or methods, place, args)


if __name__ == "__main__":
    main()

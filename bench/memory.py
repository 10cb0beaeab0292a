"""Peak resident memory of a CABS merge against everything it might depend on.

    python bench/memory.py                      # about 12 GB of disk
    python bench/memory.py --quick              # small models only

Five series, each changing one thing: size of the model, size of the largest tensor, number of fine-tunes, number of
workers, memory limit. Each says how far apart its peaks are. Then conversions and a comparison. Then a merge inside a
memory control group of 384 MiB, where the page cache counts too and the checkpoints start outside it; without the
right to make one, this part is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workplace
from cgroup import GroupError, memory_group
from measure import Run, evict, run, warm
from report import mebibytes, print_table, write_results

GROUP_BYTES = 384 << 20
COLUMNS = ("", "limit", "workers", "peak, MiB", "anonymous", "of files", "s")


@dataclass(frozen=True, slots=True)
class Case:
    """One merge to measure."""

    label: str
    size: str = "0.2GB"
    fine_tunes: int = 2
    vocabulary: int | None = None
    """Rows of the embedding instead of the size's own; sets the size of the largest tensor."""
    workers: int | None = None
    """Instead of the common number."""
    memory: str | None = None
    """Instead of the common limit."""
    stored: str | None = None
    """Kind of Zarr that the checkpoints are stored as; None for safetensors."""
    options: tuple[str, ...] = ()
    """Further options of the merge."""


def series(quick: bool) -> dict[str, list[Case]]:
    """List the cases by what they change."""
    size = "demo" if quick else "0.85B"
    sizes = ("tiny", "demo", "0.2GB") if quick else ("0.2GB", "0.85B", "3GB")
    rows = (16_000, 64_000) if quick else (16_000, 128_000, 512_000)
    tunes = (2, 3) if quick else (2, 3, 4, 6, 8)
    return {
        "Size of the model": [Case(size, size=size) for size in sizes],
        "Largest tensor": [Case(f"{count * 768 * 2 / 1e6:,.0f} MB", vocabulary=count) for count in rows],
        "Fine-tunes": [Case(f"K = {count}", fine_tunes=count) for count in tunes],
        "Workers": [Case(str(count), workers=count) for count in (1, 2, 4)],
        "Zarr": [
            Case("safetensors", size=size),
            Case("to zstd", size=size, options=("--format", "zarr")),
            Case(
                "to blosc shards", size=size, options=("--format", "zarr", "--codec", "blosc", "--zarr-shards", "8MB")
            ),
            *(Case(f"from {kind}", size=size, stored=kind) for kind in workplace.ZARR_KINDS),
            Case("from t5x to zstd", size=size, stored="t5x", options=("--format", "zarr")),
        ],
        "Memory limit": [Case(limit, memory=limit) for limit in ("300MiB", "512MiB", "2GiB")],
    }


def measure(case: Case, place: Path, args: argparse.Namespace) -> Run:
    """Make the checkpoints of a case, merge them, remove them."""
    with workplace.workplace(place, 0) as folder:
        family, command = prepare(case, folder, args)
        warm(family)
        return run(command)


def prepare(case: Case, folder: Path, args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Make the checkpoints and the command of a case."""
    changed = {} if case.vocabulary is None else {"vocabulary": case.vocabulary}
    family = workplace.make_family(folder / "family", case.size, case.fine_tunes, **changed)
    if case.stored is not None:
        family = workplace.make_zarr(family, case.stored)
    n = min(64, 256 // case.fine_tunes)
    recipe = workplace.cabs_recipe(folder / "recipe.yml", family, n)
    memory, workers = case.memory or args.memory, case.workers or args.workers
    return family, [*workplace.dovetail(recipe, folder / "out", memory=memory, workers=workers), *case.options]


def row(label: str, result: Run, limit: str) -> tuple[str, ...]:
    done = json.loads(result.tail)
    return (
        label,
        limit,
        str(done["workers"]),
        mebibytes(result.peak_rss_bytes),
        mebibytes(result.peak_anonymous_bytes),
        mebibytes(result.peak_file_bytes),
        f"{result.wall_s:.2f}",
    )


def compare(title: str, cases: Sequence[Case], place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one series and print its table."""
    runs = {case.label: measure(case, place, args) for case in cases}
    rows = [row(case.label, runs[case.label], case.memory or args.memory) for case in cases]
    peaks = [result.peak_rss_bytes for result in runs.values()]
    print_table(f"{title}: greatest peak / least = {max(peaks) / min(peaks):.3f}", COLUMNS, rows)
    return {
        "greatest_to_least": max(peaks) / min(peaks),
        "runs": {label: result.to_json() for label, result in runs.items()},
    }


def other_commands(place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Convert a checkpoint, to the same and to other dtypes, and compare two."""
    size = "demo" if args.quick else "0.85B"
    results, rows = {}, []
    with workplace.workplace(place, 0) as folder:
        base, tune = workplace.make_family(folder / "family", size, 1)
        program = workplace.dovetail(Path(), Path())[0]
        options = ["--json", "--memory", args.memory, "--workers", str(args.workers)]
        convert = [program, "convert", str(base), str(folder / "out"), "--overwrite", "--restart", *options]
        commands = {
            "convert": convert,
            "convert --dtype float16": [*convert, "--dtype", "float16"],
            "convert --dtype float8_e4m3fn": [*convert, "--dtype", "float8_e4m3fn"],
            "compare": [program, "compare", str(base), str(tune), *options, "--max-ulp", str(2**62)],
        }
        for label, command in commands.items():
            run(command)  # Not counted: it may compile kernels.
            warm([base, tune])
            results[label] = run(command)
            rows.append(row(label, results[label], args.memory))
    print_table(f"Other commands, size {size}", COLUMNS, rows)
    return {label: result.to_json() for label, result in results.items()}


def inside_group(place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Merge inside a small control group, from a cold page cache so that every page is charged to it."""
    case = Case("", size="demo" if args.quick else "0.85B")
    results = {}
    rows = []
    with workplace.workplace(place, 0) as folder:
        for limit in ("280MiB", "320MiB", None):
            family, command = prepare(case, folder, args)
            if limit is None:
                command = [word for word in command if word not in ("--memory", args.memory)]
            else:
                command[command.index("--memory") + 1] = limit
            evict(family)
            with memory_group(GROUP_BYTES) as group:
                result = run(command, group=group, may_fail=True)
            results[limit or "default"] = result.to_json() | {"returncode": result.returncode}
            ended = "completed" if not result.returncode else _failure(result)
            rows.append(
                (
                    limit or "default",
                    mebibytes(result.peak_rss_bytes),
                    mebibytes(result.group_peak_bytes),
                    f"{result.wall_s:.2f}",
                    ended,
                )
            )
    print_table(
        f"Inside a memory control group of {GROUP_BYTES >> 20} MiB, size {case.size}, cold page cache",
        ("--memory", "peak, MiB", "charged, MiB", "s", "end"),
        rows,
    )
    return results


def _failure(result: Run) -> str:
    try:
        return f"exit code {result.returncode}: {json.loads(result.tail)['text']}"
    except (ValueError, KeyError):
        return f"exit code {result.returncode}"


def main() -> None:
    parser = workplace.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="small models only")
    parser.add_argument("--only", help="one series only, by its name")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with workplace.workplace(args.work, (1 if args.quick else 13) * 10**9) as place:
        measure(Case("", size="tiny"), place, args)  # Not counted: it may compile kernels.
        for title, cases in series(args.quick).items():
            if args.only not in (None, title):
                continue
            results[title] = compare(title, cases, place, args)
        results["other commands"] = other_commands(place, args)
        try:
            if args.only is not None:
                return
            results["control group"] = inside_group(place, args)
        except GroupError as error:
            print(f"\nNot measured inside a control group: {error}")
    write_results("memory", results)


if __name__ == "__main__":
    main()

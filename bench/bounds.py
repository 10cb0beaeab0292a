"""Whether the memory limit holds in control groups of 300 to 512 MiB, for every method, format and 1 to 12 models.

    python bench/bounds.py                      # about 4 GB of disk, half an hour
    python bench/bounds.py --only della --only fp8

Each merge runs in a memory control group whose limit is that of ``--memory``. The page cache counts there too, and the
models, which are larger than the group, start outside of it. The merge must end as it does without the group, with the
same bytes; the system must kill nothing; and what the merge takes must stay below what its plan foresees. A limit that
the plan refuses is raised to the one that the error names, and must then have been needed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import workplace
from bounds_cases import OUTPUT_OPTIONS, Case, all_cases, names_of
from cgroup import GroupError, memory_group
from measure import Run, evict_files, run
from places import served
from report import mebibytes, print_table, write_results

MIB = 2**20
COLUMNS = ("", "models", "K", "output", "run", "limit", "projected", "peak", "anonymous", "charged", "s", "end")
WORKERS_MIB = 512
"""What a group has beyond the limit for the worker processes of an executor, which the limit does not bound."""
NEEDED_SHARE = 0.6
"""A raised limit was needed if the merge has taken at least this part of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one merge."""

    limit_mib: int
    """The limit at last, of the merge and of its group."""
    run: Run
    """What it took."""
    projected_bytes: int
    """What the plan foresaw; 0 if it was refused."""
    peak_bytes: int
    """What is held against that."""
    faults: tuple[str, ...]
    """What must not be."""


class Reference:
    """A process that makes the same outputs without a group, and hashes them."""

    def __init__(self) -> None:
        script = [sys.executable, str(workplace.HERE / "bounds_merge.py"), "serve"]
        self._process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._known: dict[Any, str] = {}

    def digest(self, case: Case, recipe: Path, out: Path) -> str:
        """Give the hash of a case's output."""
        numbers = case.kind if case.kind in ("f32", "fp8", "lora") else "bf16"
        by_name = case.kind in workplace.ZARR_KINDS  # else tensors, and those of the output, are in the order of files
        key = numbers, by_name, case.shape, case.layers, case.label, case.count, case.output
        if key not in self._known:
            self._known[key] = self._merge(recipe, out, case.output)
        return self._known[key]

    def _merge(self, recipe: Path, out: Path, output: str) -> str:
        """Merge, hash the output, and remove it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(recipe), str(out), output]) + "\n")
        self._process.stdin.flush()
        found = self._process.stdout.readline().strip()
        shutil.rmtree(out, ignore_errors=True)
        if not re.fullmatch("[0-9a-f]+", found):
            print(f"The merge without a group fails: {found or 'its process has ended'}", flush=True)
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def family(place: Path, case: Case) -> Iterator[list[str]]:
    """Write the models that a case and its neighbours read, and give what recipes call them, the base model first."""
    folder, count = place / "family", 12 if case.layers == 1 else 3
    words = ["--kind", case.kind, "--shape", case.shape, "--models", str(count), "--layers", str(case.layers)]
    script = [sys.executable, str(workplace.HERE / "bounds_models.py"), str(folder), *words]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    names = [str(path) for path in names_of(folder, case.kind, count)]
    try:
        if case.kind == "http":
            with served(folder, 0, float("inf")) as address:
                yield [f"{address}/{Path(name).name}" for name in names]
        elif case.kind == "lora":
            yield [names[0], *(f"{names[0]}+{name}" for name in names[1:])]
        else:
            yield names
    finally:
        shutil.rmtree(folder)


def write_recipe(path: Path, case: Case, models: Sequence[str]) -> Path:
    """Write the recipe of a case."""
    setting, (base, *tunes) = case.setting, models
    chosen = tunes[: case.count]
    return workplace.write_recipe(
        path,
        setting.name,
        base if setting.base else None,
        chosen,
        parameters=setting.parameters,
        model_parameters=[setting.each] * case.count,
    )


def command(case: Case, recipe: Path, out: Path, limit_mib: int) -> list[str]:
    """Give the command of a case."""
    memory = f"{limit_mib}MiB"
    if case.run == "processes":
        script = str(workplace.HERE / "bounds_merge.py")
        return [sys.executable, script, "merge", str(recipe), str(out), memory, case.output]
    workers = int(case.run.split()[0])
    return [*workplace.dovetail(recipe, out, memory=memory, workers=workers), *OUTPUT_OPTIONS[case.output]]


def measure(case: Case, place: Path, models: Sequence[str], reference: Reference) -> Outcome:
    """Merge in a group, with a higher limit if the plan asks for one."""
    recipe, out = write_recipe(place / "recipe.yml", case, models), place / "out"
    expected = reference.digest(case, recipe, place / "expected")
    # Of models on a server, the server's process reads, outside of the group.
    sources = [] if case.kind == "http" else [path for path in (place / "family").rglob("*") if path.is_file()]
    extra = WORKERS_MIB if case.run == "processes" else 0
    # The workers of an executor, and the process that lists the tensors of PyTorch files, are not in the projection.
    alone = case.run == "processes" or case.kind == "torch"
    found = in_group(lambda limit: command(case, recipe, out, limit), case.limit_mib, sources, extra, alone=alone)
    if not found.faults and workplace.digest(out) != expected:
        found = replace(found, faults=("other bytes",))
    shutil.rmtree(out, ignore_errors=True)
    return found


def in_group(
    words: Callable[[int], Sequence[str]],
    asked_mib: int,
    sources: Sequence[Path],
    extra_mib: int = 0,
    *,
    projects: bool = True,
    alone: bool = False,
) -> Outcome:
    """Run a command in a group of its memory limit, which is raised to the one that an error of it names.

    Parameters
    ----------
    words
        Gives the command under a limit in MiB.
    asked_mib
        The first limit.
    sources
        Files that start outside of the group.
    extra_mib
        What the group has beyond the limit.
    projects
        Whether the command says what all of it is projected to take; else its limit alone is held against it.
    alone
        Whether the memory of the command's own process alone is held against that, and not that of its children.

    """
    limit_mib = asked_mib
    while True:
        evict_files(sources)
        seen: list[str] = []
        with memory_group((limit_mib + extra_mib) * MIB) as group:
            result = run(words(limit_mib), group=group, may_fail=True, on_line=seen.append, flush=False)
            killed = group.killed()
        needed = re.search(r"at least (\d+) MiB", result.errors)
        if result.returncode == 0 or needed is None or int(needed[1]) <= limit_mib:
            break
        limit_mib = int(needed[1])
    projected = max((int(each) for line in seen for each in re.findall(r'"projected_bytes": (\d+)', line)), default=0)
    projected *= projects
    faults = []
    peak_bytes = result.peak_own_bytes if alone else result.peak_rss_bytes
    if killed:
        faults.append(f"{killed} killed")
    if result.returncode:
        faults.append(f"exit code {result.returncode}: {result.errors[-300:]}")
    elif peak_bytes > (bound := projected or limit_mib * MIB):
        faults.append(f"{mebibytes(peak_bytes - bound)} MiB beyond the projection")
    # The projection counts tasks here, wherever an executor runs them: it may have threads or processes.
    elif limit_mib > asked_mib and not extra_mib and peak_bytes < NEEDED_SHARE * limit_mib * MIB:
        faults.append("not needed")
    return Outcome(limit_mib, result, projected, peak_bytes, tuple(faults))


def row(case: Case, outcome: Outcome) -> tuple[str, ...]:
    taken = outcome.run
    limit = f"{case.limit_mib}" if case.limit_mib == outcome.limit_mib else f"{case.limit_mib} -> {outcome.limit_mib}"
    sizes = (outcome.projected_bytes, outcome.peak_bytes, taken.peak_anonymous_bytes, taken.group_peak_bytes)
    return (
        case.label,
        f"{case.kind} {case.shape}",
        str(case.count),
        case.output,
        case.run,
        limit,
        *map(mebibytes, sizes),
        f"{taken.wall_s:.1f}",
        "; ".join(outcome.faults) or "same bytes",
    )


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.add_argument("--only", action="append", default=[], help="merges with this word in their row")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="leave out the first N merges")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth merge")
    args = parser.parse_args()
    cases = [case for case in all_cases() if all(word in repr(case) for word in args.only)][args.first :: args.every]
    rows, results, began = [], [], time.monotonic()
    reference = Reference()
    try:
        with memory_group(512 * MIB):  # before anything is written
            pass
        with workplace.workplace(args.work, 4 * 10**9) as place:
            for _, group in groupby(cases, key=lambda case: (case.kind, case.shape, case.layers)):
                alike = list(group)
                with family(place, alike[0]) as models:
                    for case in alike:
                        outcome = measure(case, place, models, reference)
                        rows.append(row(case, outcome))
                        print(" | ".join(rows[-1]), flush=True)
                        results.append(record(case, outcome))
    except GroupError as error:
        sys.exit(f"nothing is measured: {error}")
    finally:
        reference.close()
    faulty = sum(1 for each in results if each["faults"])
    print_table(f"{len(rows)} merges, {faulty} with faults, in {time.monotonic() - began:.0f} s", COLUMNS, rows)
    write_results("bounds", results)
    sys.exit(bool(faulty))


def record(case: Case, outcome: Outcome) -> dict[str, Any]:
    """Describe a merge for the record."""
    said = {"kind": case.kind, "shape": case.shape, "models": case.count, "output": case.output, "run": case.run}
    return {
        "method": case.label,
        **said,
        "asked_mib": case.limit_mib,
        "limit_mib": outcome.limit_mib,
        "projected_bytes": outcome.projected_bytes,
        "faults": outcome.faults,
        **outcome.run.to_json(),
    }


if __name__ == "__main__":
    main()

"""The main thread: how long it and the thread that commits take over a task, and how many cores they can keep busy.

    python bench/main_thread.py                    # 50,000 small tensors, and chunks of the usual size
    python bench/main_thread.py --tensors 5000

One thread submits every task, takes its record and reports the progress, and another journals it. Here tasks are not
carried out: each gives a record at once, so that these two threads are all that takes time. Models are sparse files
in the page cache. A core is taken to read and write so many bytes a second as it does in a merge by CABS.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import workplace
from measure import warm
from report import print_table, spread, write_results
from rich.console import Console
from tensors import expert_names

from dovetail.engine import RunOptions, events, merge
from dovetail.engine.cli.report.bar import Bar
from dovetail.engine.cli.report.display import LiveDisplay
from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.planning.work import Work
from dovetail.engine.run import session
from dovetail.engine.run.commit import Committer
from dovetail.engine.run.execution import Execution
from dovetail.engine.run.task import PieceRecord, TaskRecord
from dovetail.engine.synthetic import SIZES

BYTES_S = 1.0e9
"""Bytes that a core reads and writes in a second, unless another figure is given."""


@dataclass(slots=True)
class Times:
    """What one merge took."""

    main_s: float = 0.0
    """Processor time of the main thread, from the first task to the last."""
    commit_s: float = 0.0
    """Processor time of the thread that commits."""
    wall_s: float = 0.0
    """Time from the first task to the last."""
    tasks: int = 0
    """Tasks of all passes."""
    bytes: int = 0
    """Bytes that they would read and write."""


def write_sparse(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a model of zeros in bfloat16 that takes no room."""
    folder.mkdir(parents=True)
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return folder


def give_record(work: Work) -> TaskRecord:
    """Give the record of a task without carrying it out."""
    records = tuple(
        PieceRecord(output.tensor, piece.chunk, 1, plain_statistics(len(piece.models), 0, np.zeros(0, np.int64)))
        for piece in work.pieces
        for output in piece.outputs
    )
    written = sum(each.stop - each.start for piece in work.pieces for each in piece.outputs) * 2
    read = sum((piece.stop - piece.start) * 2 * len(piece.inputs) for piece in work.pieces)
    return TaskRecord(work.task, work.step, None, records, read, written)


@contextlib.contextmanager
def measured(times: Times) -> Iterator[None]:
    """Measure the two threads of merges in the block, whose tasks do nothing."""
    run, commit = Execution.run, Committer._run

    def main(self: Execution, *arguments: Any) -> None:
        began, cpu = time.perf_counter(), time.thread_time()
        run(self, *arguments)
        times.wall_s, times.main_s = time.perf_counter() - began, time.thread_time() - cpu
        times.tasks = self.plan.task_count
        times.bytes = self.read_bytes + self.written_bytes

    def other(self: Committer) -> None:
        commit(self)
        times.commit_s = time.thread_time()

    with (
        patch.object(session, "execute", give_record),
        patch.object(Execution, "run", main),
        patch.object(Committer, "_run", other),
    ):
        yield


@contextlib.contextmanager
def with_bar() -> Iterator[LiveDisplay]:
    """Make a listener that draws a bar as on a terminal, into nowhere."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        LiveDisplay("merging", lambda label: Bar(label, console)) as display,
    ):
        yield display


def figures(recipe: Path, out: Path, args: Any, listen: Callable[[events.Event], None]) -> list[Times]:
    """Merge several times."""
    found = []
    for _ in range(args.repeats):
        times = Times()
        with measured(times):
            run = {"memory": args.memory, "workers": args.workers, "overwrite": True, "restart": True}
            merge(recipe, out, run=RunOptions(**run), listen=listen)
        found.append(times)
    return found


def main() -> None:
    parser = workplace.arguments(__doc__, size="0.2GB")
    parser.add_argument("--tensors", type=int, default=50_000, help="small tensors [50000]")
    parser.add_argument("--bytes-s", type=float, default=BYTES_S, help=f"what a core reads and writes [{BYTES_S:.0e}]")
    parser.set_defaults(memory="1GiB")
    args = parser.parse_args()
    rows, results = [], {}
    with workplace.workplace(args.work, 10**9) as place:
        small = dict.fromkeys(expert_names(args.tensors), (64, 64))
        usual = dict(SIZES[args.size].tensors())
        for title, shapes in ((f"{args.tensors:,} tensors of 8 KiB", small), (f"the {args.size} model", usual)):
            home = place / title.replace(" ", "-")
            family = [write_sparse(home / name, shapes) for name in ("base", "tune1", "tune2")]
            warm(family)  # what is asked to be read ahead is there
            recipe = workplace.cabs_recipe(home / "recipe.yml", family)
            for shown in ("nothing shown", "a bar"):
                listener = contextlib.nullcontext(events.ignore) if shown == "nothing shown" else with_bar()
                with listener as listen:
                    found = figures(recipe, home / "out", args, listen)
                rows.append(row(f"{title}, {shown}", found, args.bytes_s))
                results[f"{title}, {shown}"] = [
                    {name: getattr(each, name) for name in Times.__slots__} for each in found
                ]
    columns = (
        "",
        "tasks",
        "MB a task",
        "main thread, us a task",
        "commit, us a task",
        "tasks a second",
        "cores kept busy",
    )
    print_table("What one thread of Python does for every task", columns, rows)
    write_results("main_thread", {"bytes_s": args.bytes_s, "runs": results})


def row(title: str, found: list[Times], bytes_s: float) -> tuple[str, ...]:
    """Make a row of the table; both threads hold the interpreter's lock, so that their times add up."""
    tasks, size = found[0].tasks, found[0].bytes / found[0].tasks
    held = statistics.median(each.main_s + each.commit_s for each in found) / tasks
    return (
        title,
        f"{tasks:,}",
        f"{size / 1e6:.2f}",
        spread(sorted(each.main_s / tasks * 1e6 for each in found), 0),
        spread(sorted(each.commit_s / tasks * 1e6 for each in found), 0),
        f"{1 / held:,.0f}",
        f"{size / bytes_s / held:,.0f}",
    )


if __name__ == "__main__":
    main()

"""Killing processes that make parts of a merge, at random instants, for the tests and bench/parts.py.

The processes are forked, so that they start at once. Between rounds, everything that no journal lists is overwritten
with garbage, as a power failure might do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dovetail.engine import RunOptions, make_vectors, merge, read_manifest
from dovetail.engine.actions.parts import laid_out
from dovetail.engine.errors import OutputError
from dovetail.engine.output.staging import staging_path
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.run.parts.folder import is_divided
from dovetail.engine.run.parts.journals import read_journals
from dovetail.engine.run.records import RecordTable
from dovetail.io.output import SafetensorsFormat
from tests.crash import CrashCase, scribble_chunks, small_tasks, tree_bytes
from tests.crash import prepare as prepare_case

REFUSED = 3
"""Exit code of a process whose part another process makes."""

FAILED = 4
"""Exit code of a process that failed by itself."""


def refuse_lock(descriptor: object, operation: int) -> None:
    """Do as a file system without locks."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@dataclass
class Tally:
    """What has happened to the processes of one output."""

    started: int = 0
    """Processes."""
    killed: int = 0
    """Of these, those that were killed."""
    refused: int = 0
    """Those that found another process at their part."""
    publishing: int = 0
    """Kills when every chunk was done, and the output was not published."""


def make_part(case: CrashCase, subject: Path, output: Path, part: str, *, overwrite: bool = False) -> None:
    """Make one part of a case."""
    run = RunOptions(workers=case.workers, part=part, overwrite=overwrite)
    if case.vectors == "make":
        make_vectors(subject, output, case.options, run)
    else:
        merge(subject, output, case.options, run)


def start(work: Callable[[], object]) -> int:
    """Do something in a forked process; give its number."""
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        work()
        code = 0
    except OutputError as error:
        code = REFUSED if "another process is making part" in str(error) else FAILED
        if code == FAILED:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(child: int) -> int | None:
    """Wait for a process; give its exit code, or None if it was killed."""
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def kill_parts(
    folder: Path,
    case: CrashCase,
    kills: int,
    seed: int,
    counts: tuple[int, ...] = (3, 3, 3, 2, 5),
    *,
    locks: bool = True,
) -> Tally:
    """Make a case in parts, killing most processes, until so many are killed; finish it and check every byte.

    Parameters
    ----------
    folder
        An empty folder.
    case
        What is made.
    kills
        Kills after which the rest is left to itself.
    seed
        Of the instants and the parts.
    counts
        Numbers of parts that a round may have; the first round has the first.
    locks
        Whether the file system seems to have locks: else two processes of one part work at the same time.

    """
    small_tasks()
    if not locks:
        fcntl.flock = refuse_lock
    subject, expected = prepare_case(folder, case)
    output, dice, tally = folder / "output", random.Random(seed), Tally()
    began = time.monotonic()
    merge_once(case, subject, folder / "timed")
    longest = time.monotonic() - began
    count = counts[0]
    while tally.killed < kills:
        _round(case, subject, output, count, dice, longest, tally)
        _scribble(case.plan(subject), output, tally)
        if output.exists():  # and perhaps not tidied up
            assert 0 == end(start(lambda count=count: make_part(case, subject, output, f"1/{count}")))
            check(case, subject, output, expected)
            os.rename(output, folder / f"output-{tally.started}")
        count = dice.choice(counts)
    for number in range(1, count + 1):
        child = start(lambda number=number: make_part(case, subject, output, f"{number}/{count}"))
        assert 0 == end(child), "a process failed by itself"
    check(case, subject, output, expected)
    return tally


def merge_once(case: CrashCase, subject: Path, output: Path) -> None:
    """Make a case in one piece, in a process of its own."""
    assert 0 == end(start(lambda: case.run(subject, output)))


def _round(
    case: CrashCase, subject: Path, output: Path, count: int, dice: random.Random, longest: float, tally: Tally
) -> None:
    """Start a few processes at once, perhaps all at one part or to do all that is left, and kill each after a while."""
    children = []
    late, same = dice.random() < 0.4, dice.randint(1, count) if dice.random() < 0.4 else None
    if late:  # when it publishes
        count = 1
    for _ in range(dice.randint(1, 3)):
        part = f"{min(count, same or dice.randint(1, count))}/{count}"
        children.append(start(lambda part=part: make_part(case, subject, output, part)))
        tally.started += 1
    for child in children:
        time.sleep((dice.uniform(0.4, 1.2) if late and child == children[0] else dice.random() ** 2) * longest)
        os.kill(child, signal.SIGKILL)
        code = end(child)
        assert code in (0, None, REFUSED), "a process failed by itself"
        tally.killed += code is None
        tally.refused += code == REFUSED


def _scribble(plan: Plan, output: Path, tally: Tally) -> None:
    """Overwrite every chunk that no journal lists."""
    staging = staging_path(output)
    if not is_divided(staging):
        return
    plan = laid_out(plan, output, RunOptions())
    table = RecordTable(plan)
    read_journals(staging, plan.hash, table)
    tally.publishing += bool(table.rows["done"].all())
    scribble_chunks(plan, staging, table)


def check(case: CrashCase, subject: Path, output: Path, expected: dict[str, bytes]) -> None:
    """Compare an output with that of one process, which has shards of the same size."""
    found = tree_bytes(output)
    if case.options.format.shard_limit_bytes is not None and case.vectors != "make":
        limit = read_manifest(output)["options"]["shard_size_bytes"]
        same = output.with_name(f"expected-{limit}")
        if not same.exists():
            form = case.options.format.with_shard_limit(limit)
            assert isinstance(form, SafetensorsFormat)
            changed = CrashCase(case.name, case.content, case.workers, PlanOptions(form), case.vectors)
            merge_once(changed, subject, same)
        expected = tree_bytes(same)
    assert list(expected) == list(found), f"files {sorted(expected.keys() ^ found.keys())}"
    differing = [name for name, content in expected.items() if content != found[name]]
    assert [] == differing, f"{differing} of {output} differ"

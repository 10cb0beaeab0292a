"""Processes that make parts of a merge, for tests and benchmarks: starting and ending them, and what they must give.

The processes are forked, so that they start at once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from dovetail.engine import RunOptions, make_vectors, merge, read_manifest
from dovetail.engine.errors import OutputError
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.output import SafetensorsFormat
from tests.crash import CrashCase, tree_bytes

REFUSED = 3
"""Exit code of a process whose part another process makes."""

FAILED = 4
"""Exit code of a process that failed by itself."""


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


def merge_once(case: CrashCase, subject: Path, output: Path) -> None:
    """Make a case in one piece, in a process of its own."""
    assert 0 == end(start(lambda: case.run(subject, output)))


def check(case: CrashCase, subject: Path, output: Path, expected: dict[str, bytes]) -> None:
    """Compare an output with that of one process, which has shards of the same size."""
    found = tree_bytes(output)
    if case.options.format.shard_limit_bytes is not None and case.vectors != "make":
        limit = read_manifest(output)["options"]["shard_size_bytes"]
        same = subject.with_name(f"expected-{limit}")
        if not same.exists():
            form = case.options.format.with_shard_limit(limit)
            assert isinstance(form, SafetensorsFormat)
            changed = CrashCase(case.name, case.content, case.workers, PlanOptions(form), case.vectors)
            merge_once(changed, subject, same)
        expected = tree_bytes(same)
    assert list(expected) == list(found), f"files {sorted(expected.keys() ^ found.keys())}"
    differing = [name for name, content in expected.items() if content != found[name]]
    assert [] == differing, f"{differing} of {output} differ"

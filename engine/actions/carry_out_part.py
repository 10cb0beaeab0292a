"""Carrying out one part of a plan: a process makes its shards, and the one that finds all done publishes the output.

The processes share nothing but the staging folder, need no lock, and may be killed at any instant. Each has a journal
of its own, and reads those of all others. Who starts a part twice, or divides what is left among another number of
parts, at most has some chunks made twice, with the same bytes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.actions.completion import Complete, done_event, started_event, tell_findings
from dovetail.engine.actions.finished import tell_finished
from dovetail.engine.actions.publish_parts import agree_on_layout, lost_files, publish_if_done
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.errors import DiskSpaceError, InterruptedMergeError, OutputError, PartTakenError
from dovetail.engine.output.manifest import SELF_CHECKSUM
from dovetail.engine.output.publishing import WorkFolder, settle, work_folder
from dovetail.engine.output.side_files import side_bytes
from dovetail.engine.output.staging import discard_unused, is_bare, staging_path
from dovetail.engine.output.target import check_disk_space, check_target
from dovetail.engine.planning.grid import Job
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import Shares, share_jobs
from dovetail.engine.run.execution import Execution
from dovetail.engine.run.lock import Hold, hold_lock, locked, no_locks
from dovetail.engine.run.parts.folder import (
    decide_shares,
    division_path,
    divisions,
    done_parts,
    mark_done,
)
from dovetail.engine.run.parts.journals import PartJournal, read_journals
from dovetail.engine.run.parts.left import begun_shards, divide_what_is_left, left_bytes, share_done
from dovetail.engine.run.parts.part import Part, ranges
from dovetail.engine.run.prepare import RunOptions, prepare
from dovetail.engine.text import counted, format_size
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import peak_resident_bytes
from dovetail.io.files.smallfile import look_anew
from dovetail.io.output_format import Sink

_FEW_PARTS: Final = 8
"""Most parts that are not marked as done while all journals are looked at, which thousands of processes would else do.

A part that was killed at its very end is not marked."""


def carry_out_part(
    plan: Plan,
    output: Path,
    run: RunOptions,
    listen: events.Listener,
    complete: Complete,
    *,
    started: float,
    finished: Callable[[], bool],
    warned: bool = False,
) -> dict[str, Any]:
    """Run those tasks of a part of a plan that are not done yet, and publish the output if all others are done too.

    Parameters
    ----------
    plan
        The plan, laid out as the parts have agreed; see `dovetail.engine.actions.parts.laid_out`.
    output, run, listen
        As for `dovetail.engine.merge`; without `RunOptions.part`, this process does all that is left.
    complete
        Writes the small files and the manifest into a folder.
    started
        When the work began, by the monotonic clock.
    finished
        Says whether the output is there, whole, and just what is asked for.
    warned
        Whether the plan's warnings have been told.

    Returns
    -------
    dict
        The manifest without its ``tensors``; empty if other parts are left.

    Raises
    ------
    DovetailError
        As `dovetail.engine.merge` does for a recipe that has been planned.

    """
    maker = PartMaker(plan, output, run, listen, complete, started)
    remade = run.overwrite and run.part is None  # whatever is there
    try:
        check_target(output, input_paths(plan), overwrite=run.overwrite)
        for warning in () if warned else plan.warnings:
            listen(events.Notice("warning", warning))
        maker.prepare(run)
        if not maker.staging.exists():
            check_disk_space(maker.staging, plan.write_bytes + side_bytes(plan))
        with held():  # within, requests to stop are answered between tasks
            with locked(maker.staging, shared=True), work_folder(maker.staging) as folder:
                made = None if not remade and finished() else maker.run(folder)
            if made is not None:  # the locks are closed, since network file systems keep the names of open files
                return maker.end(*made)
    except (OSError, OutputError, DiskSpaceError):
        look_anew(maker.staging.parent)
        if remade or maker.published or not finished():
            raise
    return tell_published(output, plan.noun, maker.staging, run, listen, started)


def tell_published(
    output: Path, noun: str, staging: Path, run: RunOptions, listen: events.Listener, started: float
) -> dict[str, Any]:
    """Report that another process has made the same chunks, and has published the output meanwhile; give its manifest.

    The parameters are those of `tell_finished`, and the staging folder.
    """
    if is_bare(staging):  # made by this process a moment after
        discard_unused(staging)
    manifest = {key: value for key, value in read_manifest(output).items() if key not in ("tensors", SELF_CHECKSUM)}
    tell_finished(output, noun, manifest, run, listen, started)
    return manifest


class PartMaker:
    """One process that makes a part."""

    def __init__(
        self,
        plan: Plan,
        output: Path,
        run: RunOptions,
        listen: events.Listener,
        complete: Complete,
        started: float,
    ) -> None:
        assert not isinstance(run.part, str)
        self.plan, self.output, self.overwrite = plan, output, run.overwrite
        self.executor, self.listen, self.complete, self.started = run.executor, listen, complete, started
        self.part, self.divided = run.part or Part(1, 1), run.part is not None
        self.staging = staging_path(output)
        self.division = division_path(self.staging, self.part.count)
        self.published = False
        self.shares: Shares = ()
        self.shards: tuple[int, ...] = ()

    def prepare(self, run: RunOptions) -> None:
        """Load kernels, and fit the work to the memory limit."""
        self.budget, self.table = prepare(self.plan, run, self.listen)
        self.plan = self.plan.frugal() if self.budget.frugal else self.plan

    def run(self, folder: WorkFolder) -> tuple[Execution, dict[str, Any] | None]:
        """Make what is left of this part, and publish the output if nothing is left of any; give its manifest then."""
        with self.made(folder) as execution:
            manifest = self._publish(folder, made=bool(execution.written_bytes))
            if manifest is None:
                self._tell_left(execution)
        return execution, manifest

    def end(self, execution: Execution, manifest: dict[str, Any] | None) -> dict[str, Any]:
        """Remove what only the work needed, if this process has published the output, and tell what was done."""
        if manifest is None:
            return {}
        settle(self.output)
        tell_findings(self.plan, self.table, manifest, self.listen)
        self.listen(done_event(self.output, execution, manifest["totals"], time.monotonic() - self.started))
        return manifest

    @contextlib.contextmanager
    def made(self, folder: WorkFolder) -> Iterator[Execution]:
        """Make what is left of this part, and hold its lock during the block."""
        with self._agreed():
            execution = self._make(folder)
            folder.check()
            mark_done(self.division, self.part.number)
            yield execution

    @contextlib.contextmanager
    def _agreed(self) -> Iterator[None]:
        """Agree with the others on who makes what, and hold the lock of this part during the block."""
        plan, table = self.plan, self.table
        agree_on_layout(plan, table, self.staging)
        self.shares = decide_shares(self.staging, self.part.count, self._divide)
        read_journals(self.staging, plan.hash, table, self.part)
        self.shards = self.shares[self.part.number - 1]
        with hold_lock(self.division / f"{self.part.number}.lock") as hold:
            if hold is Hold.OTHERS:
                raise PartTakenError(
                    f"another process is making part {self.part} of {self.output}",
                    "one process for one part",
                    "wait for it to end",
                )
            if hold is Hold.NONE and self.divided:  # who begins alone has been warned of that already
                self.listen(events.Notice("warning", no_locks(self.staging, "part")))
            yield

    def _divide(self) -> Shares:
        """Divide what no journal has."""
        read_journals(self.staging, self.plan.hash, self.table)
        return divide_what_is_left(self.plan, self.table, self.part.count)

    def _make(self, folder: WorkFolder) -> Execution:
        """Run the tasks of this part that no journal has."""
        plan, table, shards = self.plan, self.table, self.shards
        check_disk_space(self.staging, left_bytes(plan, table, shards) + side_bytes(plan))
        folder.check()
        with contextlib.closing(self._open_sink()) as sink:
            folder.check()  # so that what is open now is in that folder
            journal = PartJournal.create(self.division, self.part, plan.hash, table)
            with contextlib.closing(journal):
                jobs = share_jobs(plan, shards)
                execution = Execution(plan, self.budget, table, journal, sink, self.listen, jobs)
                self._tell_begin(jobs, execution)
                try:
                    execution.run(self.executor)
                except KeyboardInterrupt:
                    done = share_done(plan, table, shards)
                    raise InterruptedMergeError(
                        f"part {self.part} of the {plan.noun} interrupted; {done:.1%} of its chunks are safe in "
                        f"{self.staging}",
                        action="run the same command again to continue",
                    ) from None
        return execution

    def _open_sink(self) -> Sink:
        """Open the files of this part, and create those that are not there."""
        plan, begun = self.plan, begun_shards(self.plan, self.table, self.shards)
        try:
            return plan.options.format.share_sink(plan.layout, self.staging, self.shards, begun)
        except OSError as error:
            raise lost_files(self.staging, error) from error

    def _missing(self) -> list[int]:
        """Give the numbers of the parts that have something to make and are not marked as done."""
        done = done_parts(self.division)
        return [number for number, share in enumerate(self.shares, 1) if share and number not in done]

    def _publish(self, folder: WorkFolder, *, made: bool) -> dict[str, Any] | None:
        """Complete and publish the output if all chunks are done; None if some are not.

        Parameters
        ----------
        folder
            The staging folder as it was when this process began.
        made
            Whether this process has made any. One that has not looks at all journals, whatever is marked as done.

        Raises
        ------
        FileNotFoundError
            Another process has published it.

        """
        if made and len(self._missing()) > _FEW_PARTS and len(divisions(self.staging)) == 1:
            return None
        manifest = publish_if_done(self.plan, self.table, folder, self.output, self.complete, overwrite=self.overwrite)
        self.published = manifest is not None
        return manifest

    def _tell_begin(self, jobs: Sequence[Job], execution: Execution) -> None:
        """Say what this process is going to do."""
        plan, written_bytes = self.plan, execution.remaining_bytes
        files = f"{len(self.shards):,} of {counted(len(plan.layout.shards), plan.options.format.part_noun)}"
        text = f"Part {self.part} makes {files}: {format_size(execution.total_bytes)} to read and write."
        if not self.shards:
            text = f"Part {self.part} has nothing to make: the other parts have all that there is."
        elif not written_bytes:
            text = f"Part {self.part} is made already."
        self.listen(events.Notice("info", text))
        started = started_event(plan, self.budget, self.staging)
        pieces = [piece for job in jobs for task in job.tasks for piece in task]
        self.listen(
            replace(
                started,
                tensors=len({piece.tensor for piece in pieces}),
                tasks=sum(len(job.tasks) for job in jobs),
                read_bytes=execution.total_bytes - written_bytes,
                write_bytes=written_bytes,
            )
        )

    def _tell_left(self, execution: Execution) -> None:
        """Say which parts are left."""
        left, part = self._missing(), self.part
        text = f"Part {part} is done; {counted(len(left), 'part')} of {part.count:,} left: {ranges(left)}."
        if not left:
            text = f"Part {part} is done, and chunks of other parts are missing: make all parts again."
        self.listen(events.Notice("info" if left else "warning", text))
        self.listen(
            events.PartDone(
                part=part.number,
                parts=part.count,
                left=ranges(left),
                seconds=time.monotonic() - self.started,
                read_bytes=execution.read_bytes,
                written_bytes=execution.written_bytes,
                peak_resident_bytes=peak_resident_bytes(),
                allowed_bytes=self.budget.allowed_bytes,
                workers=self.budget.workers,
            )
        )

"""Carrying a plan out by the workers of a cluster: this process plans, hands out parts, and publishes the output.

Each part is made as by a process with ``--part``: whole files, a journal of its own. So whatever ends, workers or this
process, the same command continues, with whatever workers are there then.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.actions.carry_out_part import tell_published
from dovetail.engine.actions.cluster_part import PartReport, PartRequest, make_part
from dovetail.engine.actions.completion import Complete, data_bytes, tell_findings
from dovetail.engine.actions.parts import check_takes_parts
from dovetail.engine.actions.publish_parts import agree_on_layout, publish_if_done
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.errors import DiskSpaceError, InterruptedMergeError, OutputError
from dovetail.engine.output.publishing import WorkFolder, restore_former, settle, work_folder
from dovetail.engine.output.side_files import side_bytes
from dovetail.engine.output.staging import clear, staging_path
from dovetail.engine.output.target import check_disk_space, check_target
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.shares import Shares, balanced, share_jobs, tensor_costs
from dovetail.engine.run.clusters.cluster import Cluster
from dovetail.engine.run.clusters.crew import Crew, fair_memory
from dovetail.engine.run.clusters.dispatch import Dispatch
from dovetail.engine.run.clusters.find import open_cluster
from dovetail.engine.run.clusters.patience import Patience
from dovetail.engine.run.clusters.probe import Answer, Question, forget, save_plan, versions
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.run.parts.folder import decide_shares, divisions, is_divided, parts_path
from dovetail.engine.run.parts.journals import read_journals
from dovetail.engine.run.parts.launch import processes_here
from dovetail.engine.run.parts.left import divide_what_is_left, left_bytes
from dovetail.engine.run.parts.part import ranges
from dovetail.engine.run.parts.watch import Watch
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.engine.text import counted
from dovetail.io.files.durable import remove_if_there
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import available_bytes, peak_resident_bytes
from dovetail.io.files.smallfile import is_named

_PER_WORKER: Final = 4
"""Parts for each worker, if they are long: workers that end early find more to do."""

_LEAST_BYTES: Final = 2**26
"""Bytes that a part moves at least, as far as that is ours to say: to begin one takes a while."""

_LONG_BYTES: Final = 2**32
"""Bytes that each part moves at least, where a worker has several: each ends when its last bytes are on the disk."""

_MOST_BYTES: Final = 2**34
"""Bytes that each part moves about, where that makes more parts, so that workers that come later find some."""

_MOST_PARTS: Final = 1024
"""Most parts that are made for workers that may come."""


def hand_out(
    plan: Plan,
    output: Path,
    run: RunOptions,
    listen: events.Listener,
    complete: Complete,
    *,
    started: float,
    finished: Callable[[Plan], bool],
    balance: bool,
    warned: bool = False,
) -> dict[str, Any]:
    """Have the workers of a cluster run those tasks of a plan that are not done yet, and publish the output.

    Parameters
    ----------
    plan
        The plan, laid out as the parts have agreed, if there are any.
    output, run, listen
        As for `dovetail.engine.merge`, with a cluster as the executor.
    complete
        Writes the small files and the manifest into a folder.
    started
        When the work began, planning included, by the monotonic clock.
    finished
        Says whether the output is there, whole, and just what a plan asks for.
    balance
        Whether files may be made so small that the parts are even.
    warned
        Whether the plan's warnings have been told.

    Returns
    -------
    dict
        The manifest without its ``tensors``.

    Raises
    ------
    DovetailError
        As `dovetail.engine.merge` does for a recipe that has been planned.
    WorkerLostError
        Too many workers have ended, or the cluster does not answer.
    WorkerVersionError
        A worker has another version of Dovetail, numpy or numba than this process.

    """
    staging = staging_path(output)
    check_takes_parts(plan.options.format)
    check_target(output, input_paths(plan), overwrite=run.overwrite)
    for warning in () if warned else plan.warnings:
        listen(events.Notice("warning", warning))
    client = _Client(plan, output, run, listen, complete, started)
    try:
        with opened(run.executor) as cluster, held():
            if run.restart and is_named(staging):
                with locked(staging, listen):
                    restore_former(staging, output)
                    clear(staging, {LOCK_NAME})
            if not is_named(staging):
                check_disk_space(staging, plan.write_bytes + side_bytes(plan))
            with locked(staging, shared=True), work_folder(staging) as folder:
                manifest = client.run(cluster, folder, balance=balance)
            return client.end(manifest)
    except (OSError, OutputError, DiskSpaceError):
        if client.published or not finished(client.plan):
            raise
    return tell_published(output, plan.noun, staging, run, listen, started)


@contextlib.contextmanager
def opened(executor: object) -> Iterator[Cluster]:
    """Use a cluster during the block, and leave it as it was found."""
    cluster = open_cluster(executor)
    try:
        yield cluster
    finally:
        cluster.close()


def survey(run: RunOptions, listen: events.Listener) -> Crew:
    """Ask the workers of a cluster what they are, before there is a plan that they could see.

    Raises
    ------
    DovetailError
        As `hand_out` does.

    """
    with opened(run.executor) as cluster:
        question = Question("survey", "", "", versions(), run.memory_bytes)
        dispatch = Dispatch(cluster, Patience(cluster, listen), question, make_part, _no_request, _no_chunks, listen)
        dispatch.meet()
        return Crew(cluster.name, tuple(dispatch.answers.values()), run.memory_bytes, run.workers)


@dataclass
class _Client:
    """The process that hands parts out."""

    plan: Plan
    output: Path
    options: RunOptions
    listen: events.Listener
    complete: Complete
    started: float

    def __post_init__(self) -> None:
        self.staging = staging_path(self.output)
        self.reports: list[PartReport] = []
        self.published = False
        self.merge_seconds = self.share_made = 0.0

    def run(self, cluster: Cluster, folder: WorkFolder, *, balance: bool) -> dict[str, Any]:
        """Have all made that is left, publish the output, and give its manifest."""
        patience = Patience(cluster, self.listen)
        count = parts_for(int(tensor_costs(self.plan).sum()), patience.count())
        if balance and not is_divided(self.staging) and not is_named(self.staging / JOURNAL_NAME):
            self.plan = balanced(self.plan, count)
        self.table = RecordTable(self.plan)
        watch = Watch(self.staging, agree_on_layout(self.plan, self.table, self.staging))
        read_journals(self.staging, self.plan.hash, self.table)
        folder.check()
        done = self.table.rows["done"]
        self.share_made = 1 - float(done.mean()) if len(done) else 1.0
        if not done.all():
            self._make(cluster, patience, watch, count)
        folder.check()
        overwrite = self.options.overwrite
        manifest = publish_if_done(self.plan, self.table, folder, self.output, self.complete, overwrite=overwrite)
        if manifest is None:
            raise OutputError(
                f"chunks of {self.output} are in no journal, though all parts are made",
                "every chunk in the journal of the process that made it",
                "run the same command again to make them",
            )
        self.published = True
        return manifest

    def end(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Remove what only the work needed, and tell what was done."""
        settle(self.output)
        tell_findings(self.plan, self.table, manifest, self.listen)
        self.listen(
            events.Done(
                output=str(self.output),
                seconds=time.monotonic() - self.started,
                merge_seconds=self.merge_seconds,
                read_bytes=sum(report.read_bytes for report in self.reports),
                written_bytes=sum(report.written_bytes for report in self.reports),
                peak_resident_bytes=max(
                    [report.peak_resident_bytes for report in self.reports], default=peak_resident_bytes()
                ),
                allowed_bytes=max([report.allowed_bytes for report in self.reports], default=0),
                workers=sum({report.worker: report.workers for report in self.reports}.values()),
                summary=manifest["totals"],
                output_bytes=data_bytes(self.plan),
                share_made=self.share_made,
            )
        )
        return manifest

    def _make(self, cluster: Cluster, patience: Patience, watch: Watch, count: int) -> None:
        """Divide what is left, and have it made."""
        plan, staging, options = self.plan, self.staging, self.options
        shares = self._divide(count)
        left = {number: share for number, share in enumerate(shares, 1) if watch.rows_left(share)}
        shards = tuple(shard for share in left.values() for shard in share)
        check_disk_space(staging, left_bytes(plan, self.table, shards) + side_bytes(plan))
        name = uuid.uuid4().hex[:16]
        path, digest = save_plan(plan, parts_path(staging), name)
        question = Question(name, path, digest, versions(), options.memory_bytes)

        def crew() -> Crew:
            return Crew(cluster.name, tuple(dispatch.answers.values()), options.memory_bytes, options.workers)

        def request(number: int, answer: Answer | None) -> PartRequest:
            memory = options.memory_bytes if answer is None else crew().memory_of(answer)
            output, part = str(Path.cwd() / self.output), f"{number}/{len(shares)}"
            return PartRequest(question, output, part, memory, options.workers)

        def chunks_left(part: int) -> int:
            watch.look()
            return watch.rows_left(shares[part - 1])

        dispatch = Dispatch(cluster, patience, question, make_part, request, chunks_left, self.listen)
        began = time.monotonic()
        try:
            dispatch.meet()
            self._tell_begin(crew() if cluster.asks else None, cluster, watch, left)
            with contextlib.closing(dispatch.run(list(left))) as answers:
                for made in answers:
                    if made is not None:
                        self._take(*made, len(shares), left)
                    watch.tell(self.listen)
            watch.tell(self.listen, now=True)
        except KeyboardInterrupt:
            watch.look()
            raise InterruptedMergeError(
                f"{plan.noun} interrupted; {watch.done.mean():.1%} of its chunks are safe in {staging}",
                action="run the same command again to continue",
            ) from None
        finally:
            self.merge_seconds = time.monotonic() - began
            forget()
            with contextlib.suppress(OSError):
                remove_if_there(Path(path))

    def _divide(self, count: int) -> Shares:
        """Divide what is left among so many parts, or a few more where others have been divided into as many before."""
        while count in divisions(self.staging):
            count += 1
        return decide_shares(self.staging, count, lambda: divide_what_is_left(self.plan, self.table, count))

    def _take(self, number: int, report: PartReport | None, count: int, left: dict[int, tuple[int, ...]]) -> None:
        """Take the report of a part; None if its worker was lost before it could report."""
        del left[number]
        if report is None:
            return
        self.reports.append(report)
        self.listen(
            events.PartDone(
                part=number,
                parts=count,
                left=ranges(sorted(left)),
                seconds=report.seconds,
                read_bytes=report.read_bytes,
                written_bytes=report.written_bytes,
                peak_resident_bytes=report.peak_resident_bytes,
                allowed_bytes=report.allowed_bytes,
                workers=report.workers,
            )
        )

    def _tell_begin(self, crew: Crew | None, cluster: Cluster, watch: Watch, left: dict[int, tuple[int, ...]]) -> None:
        """Say who is going to make what."""
        plan, share = self.plan, float(watch.done.mean())
        if share:
            text = f"Continuing an unfinished {plan.noun}: {share:.1%} of its chunks are done."
            self.listen(events.Notice("info", text))
        workers = len(cluster.workers())
        who = str(crew) if crew else f"{counted(workers, 'worker')} of {cluster.name}"
        self.listen(events.Notice("info", f"{who}: {counted(len(left), 'part')} of the {plan.noun} to make."))
        memory = crew.all_memory_bytes if crew else workers * (self.options.memory_bytes or _fair_here())
        tasks = sum(len(job.tasks) for job in share_jobs(plan, [shard for share in left.values() for shard in share]))
        self.listen(
            events.Started(
                method=plan.method.name,
                tensors=len(plan.tensors),
                tasks=tasks,
                read_bytes=plan.read_bytes,
                write_bytes=plan.write_bytes,
                allowed_bytes=memory,
                reserved_bytes=0,
                projected_bytes=memory,
                workers=crew.all_threads if crew else workers,
                staging=str(self.staging),
            )
        )


def parts_for(moved_bytes: int, workers: int) -> int:
    """Give the number of parts for so many workers of a merge that reads and writes so much: as many for each."""
    several = min(_PER_WORKER, moved_bytes // (_LONG_BYTES * workers))
    many = min(_MOST_PARTS, moved_bytes // _MOST_BYTES) // workers
    return max(1, min(max(several, many, 1) * workers, -(-moved_bytes // _LEAST_BYTES)))


def _fair_here() -> int:
    """Give the memory limit that a rank of MPI on this machine chooses."""
    return fair_memory(available_bytes(), processes_here(), None)


def _no_request(part: int, answer: Answer | None) -> PartRequest:
    raise AssertionError("a survey makes nothing")


def _no_chunks(part: int) -> int:
    return 0

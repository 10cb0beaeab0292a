"""What a client does about a scheduler that hangs or has ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail.engine.errors import WorkerLostError
from dovetail.engine.run.clusters import dask_cluster
from dovetail.engine.run.clusters.cluster import Seat, WorkerGoneError
from dovetail.engine.run.clusters.dask_cluster import DaskCluster, open_dask
from dovetail.io.files.interrupts import held
from tests.pace import HANGS_S, until


@pytest.fixture
def hanging() -> Iterator[Any]:
    """Give a client whose scheduler takes questions, and answers none."""
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()

    async def never() -> None:
        await asyncio.Event().wait()

    yield SimpleNamespace(
        status="running",
        scheduler=SimpleNamespace(address="tcp://here", ncores=never),
        loop=SimpleNamespace(asyncio_loop=loop),
    )
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_scheduler_that_hangs(hanging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without an end."""
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.2)
    with pytest.raises(WorkerLostError, match=r"^the Dask scheduler tcp://here does not answer any more \(no word in"):
        DaskCluster(hanging, ours=False).workers()


def test_ctrl_c_while_the_scheduler_hangs(hanging: Any) -> None:
    """A request to stop is answered while the scheduler is being asked."""
    threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt), held():
        DaskCluster(hanging, ours=False).workers()


def test_an_adaptive_cluster() -> None:
    """A cluster that starts workers by demand has none at first, and comes to as many as there is work for."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
    ) as made:
        made.adapt(minimum=0, maximum=5, interval="50ms", target_duration="100ms", wait_count=3)
        with contextlib.closing(open_dask(made)) as cluster:
            for wanted in (1, 3, 0):
                cluster.want(wanted)
                until(lambda wanted=wanted: len(cluster.workers()) == wanted)  # type: ignore[misc]


def times_out(request: int, seat: Seat) -> None:
    """Meet a file system that does not answer in time; or a Dask that has forgotten something of the job's own."""
    raise CancelledError("of the job") if request == 0 else OSError(request, os.strerror(request))


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, 0])
def test_a_job_that_times_out(number: int) -> None:
    """An error that a job raises is the job's, also if Dask would say by its like that the worker is gone."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as made,
        distributed.Client(made) as client,
    ):
        cluster, ended = DaskCluster(client, ours=False), threading.Event()
        (worker,) = cluster.workers()
        job = cluster.start(worker, times_out, number, ended.set)
        assert ended.wait(HANGS_S)
        with pytest.raises(CancelledError if number == 0 else TimeoutError, match=r"of the job|timed out"):
            job.result()
        gone = cluster.start(worker, times_out, number, ended.set)
        gone.forsake()
        with pytest.raises(WorkerGoneError):
            gone.result()


def test_a_worker_that_has_gone_before_its_job() -> None:
    """A job for a worker that is not there any more has lost its worker, if the scheduler gives up waiting for it."""
    distributed = pytest.importorskip("distributed")
    config = pytest.importorskip("dask").config
    with (
        config.set({"distributed.scheduler.no-workers-timeout": "100 ms"}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as made,
        distributed.Client(made) as client,
    ):
        ended = threading.Event()
        job = DaskCluster(client, ours=False).start("inproc://gone/1/2", times_out, 0, ended.set)
        assert ended.wait(HANGS_S)
        with pytest.raises(WorkerGoneError, match="inproc://gone/1/2"):
            job.result()


def test_a_command_says_itself_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command names a scheduler, Dask prints no errors of its own; importing it would let it do so again."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.2)
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.INFO)
        with pytest.raises(WorkerLostError):
            open_dask("dask://127.0.0.1:1")
        assert not any(logger.isEnabledFor(logging.ERROR) for logger in loggers)
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

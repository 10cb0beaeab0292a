"""What the tasks of a run share ends with the run, and other runs have their own."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from dovetail.engine import RunOptions, events, merge
from dovetail.engine.planning import grid
from dovetail.engine.run.budget import Budget
from dovetail.engine.run.session import Session, open_session
from dovetail.io import open_checkpoint
from dovetail.io.errors import RemoteError
from dovetail.io.remote import read_ahead, retrying
from dovetail.io.remote.retrying import TransientError, with_retries
from dovetail.io.zarr import chunk_pool
from tests.checkpoints import cabs_recipe, folder_bytes
from tests.engine.conftest import Family
from tests.server import Handler, Request, Site, serve

MIB = 2**20
BUDGET = Budget(512 * MIB, 100 * MIB, MIB, 4, 40 * MIB)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all pauses, and cut tensors into many small tasks."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(grid, "CHUNK_STEP", 256)
    monkeypatch.setattr(grid, "TASK_BYTES", 1 << 12)
    monkeypatch.setattr(grid, "LEAST_TASK_BYTES", 1 << 12)


def _shorten_pauses() -> None:
    """Shorten all pauses of a process."""
    retrying.FIRST_DELAY_S = 0.001


@pytest.fixture
def site(family: Family) -> Iterator[Site]:
    """Serve the family."""
    with serve(family.home) as served:
        yield served


def busy(handler: Handler, request: Request) -> bool:
    """Answer that the server is busy."""
    handler.reply(503, b"")
    return True


class Once:
    """A server that answers "busy" once for every range."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def __call__(self, handler: Handler, request: Request) -> bool:
        asked = request.path, request.headers.get("Range", "")
        if asked in self.seen:
            return False
        self.seen.add(asked)
        return busy(handler, request)


def test_a_failed_run_leaves_others_their_patience(family: Family, site: Site) -> None:
    """After a failed run, a checkpoint can be opened even if its server is busy at first."""
    recipe = cabs_recipe(family.home / "remote.yml", family.base, [f"{site.address}/math"])  # type: ignore[list-item]
    site.fault = lambda handler, request: "If-Range" in request.headers and busy(handler, request)
    with pytest.raises(RemoteError, match="after 6 attempts"):
        merge(recipe, family.out)
    site.fault = Once()
    assert "lm_head.weight" in open_checkpoint(f"{site.address}/math")


def test_an_interrupted_run_leaves_others_their_patience(family: Family, site: Site) -> None:
    """After an interrupted run, the next run succeeds even if its server is busy at first."""
    recipe = cabs_recipe(family.home / "remote.yml", family.base, [f"{site.address}/math"])  # type: ignore[list-item]

    def interrupt(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="merge interrupted"):
        merge(recipe, family.out, listen=interrupt)
    site.fault = Once()
    merge(recipe, family.out)


@pytest.mark.parametrize("processes", [False, True])
def test_two_runs_at_once(family: Family, site: Site, processes: bool) -> None:
    """While one run fails, another in the same process goes on trying, and gives the same bytes as alone."""
    recipe = cabs_recipe(family.home / "remote.yml", family.base, [f"{site.address}/math"])  # type: ignore[list-item]
    doomed = cabs_recipe(family.home / "doomed.yml", family.base, [f"{site.address}/code"])  # type: ignore[list-item]
    merge(recipe, family.home / "alone")
    once, failed = Once(), threading.Event()

    def fault(handler: Handler, request: Request) -> bool:
        if "/code/" in request.path:
            return "If-Range" in request.headers and busy(handler, request)
        return once(handler, request)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            failed.wait()  # the first of many tasks is done, and others have still to be

    def fail() -> None:
        try:
            with pytest.raises(RemoteError):
                merge(doomed, family.home / "failed")
        finally:
            failed.set()

    site.fault = fault
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fail)
        if processes:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _shorten_pauses) as executor:
                merge(recipe, family.out, run=RunOptions(executor=executor), listen=listen)
        else:
            merge(recipe, family.out, listen=listen)
        future.result()
    assert folder_bytes(family.home / "alone") == folder_bytes(family.out)


def _wait_for_ever(session: Session, begun: str) -> str:
    """Try in vain, with long pauses, and return the error's text; make a file when it has begun."""
    retrying.FIRST_DELAY_S = retrying.LONGEST_DELAY_S = 100_000.0

    def fail() -> None:
        open(begun, "w").close()
        raise TransientError("busy")

    with session.entered(), pytest.raises(RemoteError) as caught:
        with_retries(fail, "x://")
    return str(caught.value)


def test_a_process_learns_that_its_run_is_given_up(family: Family) -> None:
    """A task in another process that pauses for its server ends when the run is given up."""
    begun = family.home / "begun"
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        open_session(BUDGET) as session,
    ):
        future = executor.submit(_wait_for_ever, session, str(begun))
        while not begun.exists() and not future.done():
            threading.Event().wait(0.01)
        session.patience.give_up()
        assert future.result().startswith("x:// is not asked again")
    assert not session.patience.flag.exists()


def test_chunks_of_a_run() -> None:
    """The pool of decoded chunks has the limit of the run's budget in threads, and a worker's part in processes."""
    outside = chunk_pool.pool()
    with open_session(BUDGET) as session:
        with session.entered():
            assert (session.chunks, 40 * MIB) == (chunk_pool.pool(), chunk_pool.pool().limit_bytes)
        first, second = (pickle.loads(pickle.dumps(session)) for _ in range(2))
        assert 10 * MIB == first.chunks.limit_bytes
        assert first.chunks is second.chunks
    with open_session(BUDGET) as other:
        assert first.chunks is not pickle.loads(pickle.dumps(other)).chunks
    assert outside is chunk_pool.pool()


def test_what_is_read_ahead_for_a_run() -> None:
    """Two overlapping runs each fetch ahead within their own limit, and after them nothing is fetched ahead."""
    outside = read_ahead.pool()
    with open_session(BUDGET, MIB) as one:
        with open_session(BUDGET, 2 * MIB) as two, one.entered():
            assert MIB == read_ahead.pool().limit_bytes
            with two.entered():
                assert 2 * MIB == read_ahead.pool().limit_bytes
            assert MIB == read_ahead.pool().limit_bytes
        assert 0 == pickle.loads(pickle.dumps(one)).ahead.limit_bytes
    assert outside is read_ahead.pool()
    assert 0 == outside.limit_bytes

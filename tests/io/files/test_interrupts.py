"""Requests to stop: held back in a block, answered once and where it is safe, by the handlers that were there."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from dovetail.io.errors import ThreadLimitError
from dovetail.io.files import interrupts
from dovetail.io.files.interrupts import answer_requests, check_interrupts, held
from dovetail.io.files.threads import Threads, in_order, result_of, start_thread, wait_for_one

HANDLERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Give this process the handlers of any program, and afterwards those that it had."""
    before = {number: signal.getsignal(number) for number in HANDLERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._requests.__init__()  # type: ignore[misc]


def _now() -> tuple[Any, Any]:
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


def test_a_request_waits_for_the_end_of_the_block() -> None:
    """All of the block is done, then Ctrl-C raises, and the handlers are those of before."""
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with held():
            signal.raise_signal(signal.SIGINT)
            done.append("all")
    assert (["all"], (signal.default_int_handler, signal.SIG_DFL)) == (done, _now())


def test_a_request_is_answered_by_a_check() -> None:
    """The check raises within the block, which is left as by any other exception; the request is answered once."""
    seen = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with held(), held():
            signal.raise_signal(signal.SIGINT)
            try:
                check_interrupts()
            finally:
                seen.append("cleaned up")
    check_interrupts()
    assert (["cleaned up"], (signal.default_int_handler, signal.SIG_DFL)) == (seen, _now())


def test_handlers_after_an_error() -> None:
    """An error in the block leaves no handler of ours behind."""
    with pytest.raises(ValueError, match="wrong"), held():
        raise ValueError("wrong")
    assert (signal.default_int_handler, signal.SIG_DFL) == _now()


@pytest.mark.parametrize("number", HANDLERS)
def test_the_callers_own_handler_decides(number: signal.Signals) -> None:
    """A handler that does not raise, as an event loop has it, is called once, and the work goes on."""
    called: list[tuple[int, FrameType | None]] = []
    signal.signal(number, lambda *arguments: called.append(arguments))
    done = 0
    with held():
        signal.raise_signal(number)
        for _ in range(3):
            check_interrupts()
            done += 1
    assert (3, [(number, None)]) == (done, called)


def test_signals_that_are_ignored_stay_ignored() -> None:
    """A process that was started to ignore Ctrl-C goes on to do so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held():
        assert signal.SIG_IGN == signal.getsignal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        check_interrupts()
    assert signal.SIG_IGN == signal.getsignal(signal.SIGINT)


def test_other_threads_change_nothing() -> None:
    """On another thread no handler is touched, and nothing is answered."""

    def work() -> tuple[Any, Any]:
        with held():
            check_interrupts()
            return _now()

    before = _now()
    with ThreadPoolExecutor(1) as pool:
        assert before == pool.submit(work).result() == _now()


def test_two_requests_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request right after the first is the first once more; one that comes later is answered at once."""
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with held():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
            done = True
    assert done
    monkeypatch.setattr(interrupts, "AGAIN_S", 0.0)
    with held(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second request was not answered")


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Pause Python's garbage collector: what libraries have it call is traced too, and what that raises is lost."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_at_every_instant() -> None:
    """Interrupted at any instruction, also of entering and leaving, a block is never left half done, Ctrl-C raises just
    once, and the handlers are there again."""

    def work(state: list[str]) -> None:
        with held():
            state[0] = "half"
            state[0] = "done"

    number, reached = 0, True
    while reached:
        number += 1
        state, reached, raised = ["before"], False, 0
        left = number

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left, reached
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == 0:
                    reached = True
                    sys.settrace(None)
                    signal.raise_signal(signal.SIGINT)
            return trace

        sys.settrace(trace)
        try:
            work(state)
        except KeyboardInterrupt:
            raised = 1
        finally:
            sys.settrace(None)
        assert state[0] in ("before", "done"), number
        assert int(reached) == raised, number
        assert (signal.default_int_handler, signal.SIG_DFL) == _now(), number
        assert (0, None, None) == (interrupts._requests.blocks, interrupts._requests.came, interrupts._requests.since)
    assert number > 50


def test_a_program_that_answers() -> None:
    """Outside of blocks it is told at once, with the frame; in a block at a check; after a block, what came is left to
    the next one, but for short blocks."""
    told: list[bool] = []
    answer_requests(lambda _, frame: told.append(frame is None))
    signal.raise_signal(signal.SIGINT)
    assert [False] == told
    answer_requests(lambda _, frame: told.append(frame is None))
    with held(at_once=True):
        signal.raise_signal(signal.SIGINT)
    assert [False, False] == told
    answer_requests(lambda _, frame: told.append(frame is None))
    with held():
        signal.raise_signal(signal.SIGTERM)
    with held(at_once=True):
        pass
    assert [False, False] == told
    with held():
        assert [False, False, True] == told


def test_a_forked_process_has_its_handlers_again() -> None:
    """A process forked within a block is not left deaf."""
    with held():
        child = os.fork()
        if child == 0:
            os._exit(0 if _now() == (signal.default_int_handler, signal.SIG_DFL) else 1)
        assert 0 == os.waitpid(child, 0)[1]


@pytest.mark.parametrize("wait", [result_of, lambda future: wait_for_one([future])], ids=["result", "one of several"])
def test_waiting_is_cut_short(wait: Callable[[Future[None]], Any]) -> None:
    """Whoever waits on the main thread for what never comes stops when it is asked to."""
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), held():
        wait(Future())


def test_results_in_order() -> None:
    """They come in the order of the items; an error comes at its place, also one that says that time is up."""

    def work(item: int) -> int:
        if item == 2:
            raise TimeoutError("of its own")
        return -item

    with Threads(2) as pool:
        results = in_order(pool, work, range(4))
        assert [0, -1] == [next(results), next(results)]
        with pytest.raises(TimeoutError, match="of its own"):
            next(results)


def test_threads_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one of ours, which is still a `RuntimeError`; any other `RuntimeError` stays what it is."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Threads(1) as closed:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        closed.submit(int)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ThreadLimitError, match="the system starts no further thread; expected room"):
        start_thread(threading.Thread())
    with Threads(1) as pool, pytest.raises(ThreadLimitError):
        pool.submit(int)

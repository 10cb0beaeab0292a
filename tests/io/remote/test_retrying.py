"""Requests are repeated with growing pauses, up to a number of attempts or until the run is given up."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dovetail.io.errors import RemoteError
from dovetail.io.remote import retrying
from dovetail.io.remote.retrying import Patience, TransientError, patient, with_retries


class Pauses(Patience):
    """A patience that does not pause, and records how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is between half and all of twice the last, up to the longest; then the error has the reason."""
    pauses = Pauses()
    monkeypatch.setattr(retrying, "ATTEMPTS", 10)

    def fail() -> None:
        raise TransientError("it is Monday")

    with patient(pauses), pytest.raises(RemoteError, match=r"x:// cannot be read \(it is Monday\) after 10 attempts"):
        with_retries(fail, "x://")
    for index, seconds in enumerate(pauses.seconds):
        longest = min(30.0, 0.5 * 2**index)
        assert longest / 2 <= seconds <= longest
    assert 9 == len(pauses.seconds)


def test_what_the_server_asks_for() -> None:
    """The pause is at least what the server asks for."""
    pauses, failures = Pauses(), [7.0, None]

    def attempt() -> str:
        if failures:
            raise TransientError("busy", failures.pop())
        return "done"

    with patient(pauses):
        assert "done" == with_retries(attempt, "x://")
    assert pauses.seconds[0] <= 0.5
    assert 7.0 == pauses.seconds[1]


def test_other_errors_are_not_tried_again() -> None:
    """Only after a `TransientError` is another attempt made."""
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        with_retries(attempt, "x://")
    assert [1] == calls


@pytest.mark.parametrize("elsewhere", [False, True])
def test_whoever_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """A long pause ends when the run is given up, even if the patience was pickled."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 100_000.0)
    monkeypatch.setattr(retrying, "LONGEST_DELAY_S", 100_000.0)
    patience, failed = Patience(), threading.Event()

    def fail() -> None:
        failed.set()
        raise TransientError("gone")

    def work() -> None:
        with patient(pickle.loads(pickle.dumps(patience)) if elsewhere else patience):
            with_retries(fail, "x://")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        failed.wait()
        patience.give_up()
        with pytest.raises(RemoteError, match=r"is not asked again, .*; run the same command again to continue"):
            future.result()
    assert elsewhere == patience.flag.exists()
    patience.close()
    assert not patience.flag.exists()


def test_a_run_given_up_before_its_tasks_leave() -> None:
    """A patience that is pickled after the run was given up says so where it is unpickled."""
    patience = Patience()
    patience.give_up()
    assert not patience.flag.exists()
    assert pickle.loads(pickle.dumps(patience)).wait(100_000.0)
    patience.close()


def test_one_run_does_not_know_of_another() -> None:
    """When one run is given up, another still tries again, and so do requests that belong to no run."""
    one, other, failures = Patience(), Pauses(), [None, None]
    one.give_up()

    def attempt() -> str:
        if failures:
            raise TransientError("busy", failures.pop())
        return "done"

    with patient(one):
        with patient(other):
            assert "done" == with_retries(attempt, "x://")
        failures.append(None)
        with pytest.raises(RemoteError, match="is not asked again"):
            with_retries(attempt, "x://")
    assert 2 == len(other.seconds)

"""Trying again: how often, after what pauses, and until somebody wants to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dovetail.io.errors import RemoteError
from dovetail.io.remote import retrying
from dovetail.io.remote.retrying import TransientError, abandon, persist, with_retries


@pytest.fixture(autouse=True)
def _persistent() -> Iterator[None]:
    """Leave nothing behind."""
    persist()
    yield
    persist()


class Pauses:
    """Stands for the event that is waited for, and notes for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is between half and all of twice the last, up to the longest; then the reason is told."""
    pauses = Pauses()
    monkeypatch.setattr(retrying, "_abandoned", pauses)
    monkeypatch.setattr(retrying, "ATTEMPTS", 10)

    def fail() -> None:
        raise TransientError("it is Monday")

    with pytest.raises(RemoteError, match=r"x:// cannot be read \(it is Monday\) after 10 attempts"):
        with_retries(fail, "x://")
    for index, seconds in enumerate(pauses.seconds):
        longest = min(30.0, 0.5 * 2**index)
        assert longest / 2 <= seconds <= longest
    assert 9 == len(pauses.seconds)


def test_what_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is at least what the server asks for."""
    pauses, failures = Pauses(), [7.0, None]
    monkeypatch.setattr(retrying, "_abandoned", pauses)

    def attempt() -> str:
        if failures:
            raise TransientError("busy", failures.pop())
        return "done"

    assert "done" == with_retries(attempt, "x://")
    assert pauses.seconds[0] <= 0.5
    assert 7.0 == pauses.seconds[1]


def test_other_errors_are_not_tried_again() -> None:
    """Only what may pass is tried again."""
    calls = []

    def attempt() -> None:
        calls.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        with_retries(attempt, "x://")
    assert [1] == calls


def test_whoever_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of minutes ends at once when the work is abandoned."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 300.0)
    monkeypatch.setattr(retrying, "LONGEST_DELAY_S", 300.0)
    timer = threading.Timer(0.1, abandon)
    timer.start()
    began = time.monotonic()

    def fail() -> None:
        raise TransientError("gone")

    with pytest.raises(RemoteError, match=r"was not tried again; .* run the same command again to continue"):
        with_retries(fail, "x://")
    assert time.monotonic() - began < 60
    timer.join()

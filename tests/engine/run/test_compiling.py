"""One process compiles what several need; whoever cannot have the lock, or waits in vain, compiles too."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dovetail.engine.run import compiling
from dovetail.engine.run.compiling import one_compiler
from dovetail.engine.run.lock import hold_lock
from tests.pace import HANGS_S

HOLDS = """
import sys, time
from pathlib import Path
from dovetail.engine.run.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "lock"], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made
        made.kill()


def compiles(path: Path, found: bool = False, meanwhile: Callable[[], None] = lambda: None) -> tuple[bool, int]:
    """Give whether this process is to compile, and how often it said that it waits, when `meanwhile` is called."""
    waits: list[int] = []

    def waiting() -> None:
        waits.append(1)
        meanwhile()

    with one_compiler(path, lambda: found, waiting) as alone:
        return alone, len(waits)


@pytest.mark.parametrize("found", [False, True])
def test_who_is_alone(tmp_path: Path, found: bool) -> None:
    """Who is alone compiles at once what is missing, and nothing that another has compiled a moment ago."""
    assert (not found, 0) == compiles(tmp_path / "new" / "lock", found)


@pytest.mark.parametrize("found", [False, True])
def test_who_comes_later(tmp_path: Path, held: subprocess.Popen[str], found: bool) -> None:
    """Who comes later waits until the other process has ended, in whatever way, and compiles only what it has not."""
    assert (not found, 1) == compiles(tmp_path / "lock", found, held.kill)
    assert held.wait(HANGS_S) != 0


def test_a_process_that_stands_still(
    tmp_path: Path, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for without an end."""
    monkeypatch.setattr(compiling, "WAIT_S", 0.3)
    alone, _ = compiles(tmp_path / "lock")
    assert alone
    assert held.poll() is None


def test_many_wait(tmp_path: Path) -> None:
    """All that wait go on at once when the lock is free, none after another."""
    ended: list[bool] = []
    threads = [
        threading.Thread(target=lambda: ended.append(compiles(tmp_path / "lock", found=True)[0])) for _ in range(8)
    ]
    with hold_lock(tmp_path / "lock"):
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert [] == ended
    for thread in threads:
        thread.join(HANGS_S)
    assert [False] * 8 == ended


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a lock, everybody compiles."""
    (tmp_path / "file").touch()
    assert (True, 0) == compiles(tmp_path / "file" / "lock")

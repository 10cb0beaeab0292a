"""Event loops of threads are closed with their threads, however these end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import Any

import pytest

from dovetail.io.zarr import inline


async def _answer() -> int:
    return 42


def test_a_loop_closes_with_its_thread() -> None:
    """Nothing of a thread's event loop is left after the thread."""
    opened: list[int] = []

    def work() -> None:
        assert 42 == inline.run_here(_answer())
        opened.append(inline._thread.loop.loop._ssock.fileno())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


@pytest.mark.filterwarnings("error")
def test_a_loop_that_an_error_holds_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is found in a cycle, as of an error and its traceback, is closed before its sockets are."""
    complaints: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", complaints.append)
    made = [asyncio.new_event_loop()]  # earlier, so that the collector comes to it and its sockets first
    monkeypatch.setattr(asyncio, "new_event_loop", made.pop)
    own: Any = inline._Loop()
    number = own.loop._ssock.fileno()
    own.held_by = [own]
    del own
    gc.collect()
    assert [] == complaints
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)

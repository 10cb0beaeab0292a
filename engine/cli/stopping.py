"""Answering requests to stop for the command: it ends with one line, at any instant.

As long as nothing is held that must be put in order, the process ends by itself right where it is, because an exception
in the middle of an import or of a destructor could be lost, or print more than a line. Whatever is on the disk at that
instant is what a kill would leave there, and the same command continues from it. Where work is held
(`dovetail.io.files.interrupts`), `KeyboardInterrupt` is raised once stopping is safe.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from types import FrameType
from typing import Any, Final

from dovetail.io.files.interrupts import answer_requests, ignore_requests, is_main
from dovetail.io.files.temporary import remove_folders

INTERRUPTED: Final = "interrupted; run the same command again to continue"
"""What people are told, where there is no more to say."""

EXIT_INTERRUPTED: Final = 130
"""Exit code after a request to stop."""

_LINE_ALONE: Final = b"\r\x1b[2K\x1b[?25h"
"""Clears the line of a bar in a terminal, and shows the cursor."""


def answer_interrupts(arguments: list[str]) -> None:
    """Answer requests to stop from now on, as the command's arguments say: with ``--json`` there too."""
    if is_main():
        answer_requests(_Answer(as_json="--json" in arguments))


class _Answer:
    """Answers a request to stop."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt` where that is safe, and else end the process."""
        if frame is None:
            raise KeyboardInterrupt
        ignore_requests()
        self._tell()
        _silence()
        _clean_up()
        os._exit(EXIT_INTERRUPTED)

    def _tell(self) -> None:
        """Write without Python's streams, which may be in the middle of writing."""
        with contextlib.suppress(OSError):
            if os.isatty(1):
                os.write(1, _LINE_ALONE)
        _write(2, f"error: {INTERRUPTED}\n")
        if self._as_json:
            _write(1, f'{{"event": "error", "text": "{INTERRUPTED}", "exit_code": {EXIT_INTERRUPTED}}}\n')


def _write(descriptor: int, text: str) -> None:
    """Write a line, unless nobody takes it."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, text.encode())


def _silence() -> None:
    """Put nowhere what other threads, or what waits for the end of the process, would still print."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def _clean_up() -> None:
    """End child processes, and remove temporary folders, as the end of the process would."""
    processes: Any = sys.modules.get("multiprocessing")
    cache: Any = sys.modules.get("dovetail.engine.kernels.cache")
    evaluators: Any = sys.modules.get("dovetail.engine.searching.command")
    with contextlib.suppress(Exception):
        for child in processes.active_children() if processes else ():
            child.kill()
    with contextlib.suppress(Exception):
        if evaluators:
            evaluators.end_all()
    with contextlib.suppress(Exception):
        for remove in (remove_folders, *getattr(cache, "ending", ())):
            remove()

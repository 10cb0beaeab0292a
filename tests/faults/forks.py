"""Commands in forked processes, which have imported Dovetail and loaded its kernels before they begin."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer.main

from dovetail.engine.cli.main import main
from dovetail.io.formats import torch_reader
from tests.faults.paused import small_tasks
from tests.faults.preload import Library

HANGS_S = 120.0
"""Seconds after which a command is taken to hang."""


def begin() -> None:
    """Cut tensors into small tasks in this process, and do what takes long and is always the same only once."""
    small_tasks()
    gc.get_freeze_count = lambda: 1  # what this process has made before it forks is frozen, and counting it takes long
    typer.main.get_command = functools.cache(typer.main.get_command)  # making the parser takes half of the time
    answers: dict[tuple[str, ...], Any] = {}
    listed = torch_reader.list_tensors

    def remembered(paths: Any) -> Any:
        wanted = tuple(paths)
        if wanted not in answers:
            answers[wanted] = listed(wanted)
        return answers[wanted]

    torch_reader.list_tensors = remembered  # type: ignore[assignment]


def call(arguments: Sequence[str]) -> int:
    try:
        main([*arguments, "--json"])
    except SystemExit as left:
        return int(left.code or 0)


def be_a_command(arguments: Sequence[str], watcher: Library | None) -> NoReturn:
    """Run a command in a forked process, and end the process."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.dump_traceback_later(0.9 * HANGS_S, file=2)
        if watcher is not None:
            watcher.arm()
        code = call(arguments)
        gc.collect()  # what is cleaned up only at the end shows here
    except BaseException:
        traceback.print_exc()
    finally:
        if watcher is not None:
            watcher.disarm()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int | None:
    """Wait for a process to end, and kill it if it hangs."""
    descriptor = os.pidfd_open(child)
    try:
        done, _, _ = select.select([descriptor], [], [], HANGS_S)
        if not done:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) if done else None
    finally:
        os.close(descriptor)


def aside(function: Callable[[], None]) -> None:
    """Call a function in a forked process, because it imports what must not stay in this one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@contextlib.contextmanager
def quietly(folder: Path) -> Iterator[None]:
    """Let this process work in a folder and print nothing."""
    before, handlers = Path.cwd(), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(folder)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)

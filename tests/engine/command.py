"""Running the command ``dovetail`` as a user does, in this process or in another."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer.main

from dovetail.engine.cli.main import main
from dovetail.engine.run.warm import COMPILING, WAITING
from tests.pace import HANGS_S

# Typer evaluates all annotations of a command each time that it is called, which takes as long as a small merge.
typer.main.get_params_from_function = functools.cache(typer.main.get_params_from_function)

COMMAND = (sys.executable, "-m", "dovetail.engine")
"""What starts the command in a process of its own."""


ABOUT_KERNELS = (COMPILING, WAITING)
"""Said by whichever tests are the first to need a kernel on a machine, and therefore left out of what is compared."""


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a command, without the notices `ABOUT_KERNELS`."""

    code: int
    """Exit code."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON objects on standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def dovetail(*arguments: str | Path, least_bytes: int = 1) -> Outcome:
    """Run the command in this process, by the function that the installed script calls.

    Parameters
    ----------
    arguments
        What follows the command's name.
    least_bytes
        Takes the place of `cli.options.LEAST_BYTES`, in bytes: shards of the tests' models are smaller.

    """
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch("dovetail.engine.cli.options.LEAST_BYTES", least_bytes),
            pytest.raises(SystemExit) as left,
        ):
            main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(left.value.code, int)
    return _outcome(left.value.code, out.getvalue(), err.getvalue())


def dovetail_process(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Outcome:
    """Run the command in another process."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=HANGS_S,
        check=False,
    )
    return _outcome(done.returncode, done.stdout, done.stderr)


def _outcome(code: int, out: str, err: str) -> Outcome:
    def cleaned(text: str) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if not any(notice in line for notice in ABOUT_KERNELS))

    return Outcome(code, cleaned(out), cleaned(err))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int] | None]:
    """Read every file below a folder, with its modification time; None for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }

"""A Dask cluster by Dask's own commands, in processes as a user starts them: a scheduler, and workers with nannies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.pace import HANGS_S

ROOT = Path(__file__).parents[1]


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the variables for a command; workers find the modules of the tests."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own during the block, and end all that it has started afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def scheduler(
    folder: Path, *options: str, prefix: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start a scheduler, whose files go into a folder; give its address, such as ``tcp://127.0.0.1:8786``."""
    found = folder / "scheduler.json"
    common = ["--port", "0", "--no-dashboard", "--no-jupyter", "--scheduler-file", str(found)]
    command = [*prefix, sys.executable, "-m", "dask", "scheduler", *common, *options]
    with running(command, folder / "scheduler.log", variables) as process:
        began, address = time.monotonic(), ""
        while not address:
            if process.poll() is not None or time.monotonic() - began > HANGS_S:
                raise RuntimeError(f"the scheduler does not start: {(folder / 'scheduler.log').read_text()}")
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not written yet, or not whole
                address = str(json.loads(found.read_text())["address"])
        yield address


@contextlib.contextmanager
def workers(
    folder: Path,
    address: str,
    count: int,
    *options: str,
    prefix: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start worker processes with one thread each, which are started again when they end; give their parent."""
    common = ["--nworkers", str(count), "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
    common += ["--local-directory", str(folder)]
    command = [*prefix, sys.executable, "-m", "dask", "worker", address, *common, *options]
    with running(command, folder / "workers.log", variables) as process:
        yield process

"""Machines that share a folder as over NFS: processes that see it through clients of their own, under the same path.

Each machine is a mount namespace in which a client (`tests.nfs_client`) lies over the folder. This process is the
server: it sees the folder itself. What it changes, the machines see after a while, as what another machine changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_ROOT = Path(__file__).parents[1]


def why_not() -> str:
    """Say why machines cannot be made here; empty if they can."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed; expected it; apt-get install fuse3 libfuse3-dev, and pip install pyfuse3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        return "/dev/fuse cannot be mounted; expected root, on a system with FUSE"
    if shutil.which("unshare") is None:
        return "unshare not found; expected it; apt-get install util-linux"
    return ""


class Machines:
    """Some machines that share a folder.

    Parameters
    ----------
    folder
        What they share.
    count
        How many there are.
    seconds
        How long they remember names and attributes.

    """

    def __init__(self, folder: Path, count: int, seconds: float) -> None:
        self.folder, self.count, self.seconds = folder, count, seconds
        self._started = 0
        self._clients = [self._mount() for _ in range(count)]

    def _mount(self) -> subprocess.Popen[bytes]:
        """Start a client in a namespace of its own, and wait until it is mounted."""
        self._started += 1
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.nfs_client"]
        options = [str(self.folder), "--seconds", str(self.seconds), "--seed", str(self._started)]
        client = subprocess.Popen([*command, *options], cwd=_ROOT)
        table = Path(f"/proc/{client.pid}/mountinfo")
        deadline = time.monotonic() + 30
        while "dovetail-nfs" not in table.read_text():
            if client.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("a client does not start")
            time.sleep(0.02)
        return client

    def enter(self, machine: int) -> None:
        """Move this process, which must have one thread alone, to a machine."""
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/proc/{self._clients[machine].pid}/ns/mnt", os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNS):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def crash(self, machine: int, processes: Sequence[int]) -> None:
        """Let a machine fail, with its processes: what they have written and not synced is lost; then start it anew."""
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        self._clients[machine].kill()
        self._clients[machine].wait()
        for process in processes:
            os.kill(process, signal.SIGKILL)
        self._clients[machine] = self._mount()

    def settle(self) -> None:
        """Wait until all machines have forgotten what they remember, so that they see what this process has changed."""
        time.sleep(self.seconds + 0.05)

    def stop(self) -> None:
        """Stop all clients; processes on the machines must have ended."""
        for client in self._clients:
            client.terminate()
        for client in self._clients:
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(10)
            client.kill()
            client.wait()


@contextlib.contextmanager
def machines(folder: Path, count: int, seconds: float) -> Iterator[Machines]:
    """Make machines that share a folder during the block."""
    found = Machines(folder, count, seconds)
    try:
        yield found
    finally:
        found.stop()

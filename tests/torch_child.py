"""A child process that lists the tensors of PyTorch files, kept for many of them.

`dovetail.io.formats.torch_reader.list_tensors` starts a child for every checkpoint, so that no file can reach what is
said of another. The files of tests trust each other, and loading PyTorch takes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import IO, Any

from dovetail.io.errors import TorchFileError
from dovetail.io.formats import torch_reader

list_in_new_child = torch_reader.list_tensors
"""What Dovetail itself does, for tests of it."""


class KeptChild:
    """Starts the child when it is first asked, and again if it has died."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> KeptChild:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            self._pipe(self._child.stdin).close()
            self._child.wait()
            self._pipe(self._child.stdout).close()

    def list_tensors(self, paths: Iterable[str]) -> list[dict[str, Any]]:
        """List the tensors of files, as `dovetail.io.formats.torch_reader.list_tensors` does."""
        if self._child is None or self._child.poll() is not None:
            command = [sys.executable, "-P", "-m", "dovetail.io.formats.torch_catalogue"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        return [self._ask(self._child, path) for path in paths]

    def _ask(self, child: subprocess.Popen[str], path: str) -> dict[str, Any]:
        print(json.dumps(path), file=child.stdin, flush=True)
        if not (line := self._pipe(child.stdout).readline()):
            raise TorchFileError(f"PyTorch could not read {path}", "a file of tensors", "look at the child's errors")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

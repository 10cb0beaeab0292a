"""Standard output and standard error that may go away while a command works: a closed pipe, a full disk.

A command that makes or checks something goes on without its reader. One that only prints has nothing left to do, and
ends as Unix tools do.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TextIO, cast

from dovetail.io.files.interrupts import held

EXIT_FULL: Final = 4
"""Exit code if standard output is on a full disk."""

EXIT_UNWRITTEN: Final = 5
"""Exit code if standard output cannot be written for another reason."""


class LostOutputError(Exception):
    """Standard output cannot be written, and the command does nothing but write it."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(str(error))


class LastingStream:
    """A text stream that goes on without its reader; everything but writing is the stream's own.

    Parameters
    ----------
    stream
        Where texts go.
    needed
        Whether nothing is left to do once the stream cannot be written any more.

    """

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        self._stream, self.needed = stream, needed
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, or drop it if the reader is gone; raises `LostOutputError` if the stream is needed."""
        with held(at_once=True):
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
                return len(text)

    def flush(self) -> None:
        """Pass on what is buffered; as `write`."""
        with held(at_once=True):
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Send all further text, what is still buffered included, to nowhere."""
        self.lost = self.lost or error
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if self.needed:
            raise LostOutputError(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Let standard output and standard error be lasting streams during the block.

    Standard output is needed until `outlast_reader` is called; standard error never is.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names with letters that the terminal's encoding lacks
    # A process that was started without one of the streams has None there, and print drops what it is given.
    if sys.stdout is not None:
        sys.stdout = cast(TextIO, LastingStream(sys.stdout, needed=True))
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, LastingStream(sys.stderr, needed=False))
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Put nowhere in the place of closed standard streams, or the next file that is opened would be written into."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the system gives the lowest free number


def outlast_reader() -> None:
    """Let the command that runs go on if standard output can no longer be written."""
    if isinstance(sys.stdout, LastingStream):
        sys.stdout.needed = False


def finish_output() -> None:
    """Write what is buffered, and say on standard error if standard output was lost on the way.

    Raises
    ------
    LostOutputError
        Standard output is needed and cannot be written.

    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if isinstance(sys.stdout, LastingStream) and (lost := sys.stdout.lost) is not None:
        text = f"note: standard output could not be written any more ({lost.strerror}): the command went on without it"
        print(text, file=sys.stderr, flush=True)


def end_without_output(error: OSError) -> NoReturn:
    """End the process because nobody reads its output: by SIGPIPE for a closed pipe, else with a text."""
    if error.errno == errno.EPIPE:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
        sys.exit(128 + signal.SIGPIPE)  # where the signal is blocked
    print(
        f"error: standard output cannot be written: {error.strerror}; expected room for what the command prints; "
        "send it elsewhere",
        file=sys.stderr,
    )
    sys.exit(EXIT_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_UNWRITTEN)

"""The error tree's root and the part of it that concerns checkpoints.

::

    DovetailError                     exit code 1
    ├── CheckpointError (ValueError)  exit code 3: a checkpoint is bad
    │   ├── HeaderError               a safetensors header that breaks the format's rules
    │   ├── IndexFileError            a shard index that breaks its rules
    │   ├── ZarrError                 Zarr metadata that breaks its rules, or a chunk that cannot be decoded
    │   ├── StoreError                a store of task vectors that is damaged, or does not fit its base model
    │   ├── MissingFileError          a checkpoint or a shard that is not there
    │   ├── ChangedFileError          a checkpoint file that changed after it was opened
    │   ├── AdapterError              an adapter that breaks its rules, or does not fit its model
    │   ├── TorchFileError            a PyTorch file that is damaged or holds more than weights
    │   ├── RemoteError               a server that cannot be reached or answers what it should not
    │   ├── UnsupportedError          a format, dtype or quantisation that cannot be merged
    │   ├── TensorMismatchError       tensors missing or differing in shape between checkpoints
    │   └── NonFiniteError            NaN or infinity where numbers are expected
    ├── DTypeNameError (ValueError)   exit code 2: no such dtype
    ├── OutputFormatError (ValueError)  exit code 2: an option that the output's format does not have
    ├── SystemLimitError (RuntimeError)  exit code 4: the system has no more open files or memory for this process
    │   └── ThreadLimitError             the system starts no more threads
    └── engine.errors ...             recipes, memory, output (see there)

Every message reads ``<what> <actual>; expected <value>; <what to do>``.
"""

from __future__ import annotations

import errno
from typing import Final


class DovetailError(Exception):
    """Root of every error that Dovetail raises on purpose.

    Parameters
    ----------
    what
        What is wrong, with the actual value and the file and tensor concerned.
    expected
        What would have been right (the word "expected" is added).
    action
        What the user can do about it.

    """

    exit_code = 1

    def __init__(self, what: str, expected: str = "", action: str = "") -> None:
        self.what, self.expected, self.action = what, expected, action
        parts = [what, f"expected {expected}" if expected else "", action]
        super().__init__("; ".join(readable(part) for part in parts if part))

    def __reduce__(self) -> tuple[type[DovetailError], tuple[str, str, str]]:
        """Pickle by the three parts, so that an error crosses process boundaries whole."""
        return type(self), (self.what, self.expected, self.action)


_LONGEST_PART = 2_000


def readable(text: str) -> str:
    """Shorten a text that is too long to read, and escape characters that could control a terminal.

    The text may quote names from untrusted files.
    """
    if len(text) > _LONGEST_PART:
        text = f"{text[: _LONGEST_PART // 2]} ... {text[-_LONGEST_PART // 4 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class CheckpointError(DovetailError, ValueError):
    """A checkpoint cannot be used: it is damaged, missing, changed, or of a kind that Dovetail does not merge."""

    exit_code = 3


class HeaderError(CheckpointError):
    """A safetensors header breaks the format's rules."""


class IndexFileError(CheckpointError):
    """A shard index breaks its rules."""


class ZarrError(CheckpointError):
    """Zarr metadata breaks its rules, or a chunk cannot be decoded."""


class StoreError(CheckpointError):
    """A store of task vectors is damaged, or was made from another base model."""


class MissingFileError(CheckpointError):
    """A checkpoint or one of its files is not there."""


class ChangedFileError(CheckpointError):
    """A checkpoint file changed after it was opened, or can no longer be read."""


class AdapterError(CheckpointError):
    """An adapter breaks its rules, or does not fit the model to which the recipe applies it."""


class TorchFileError(CheckpointError):
    """A PyTorch file is damaged, or holds more than weights."""


class RemoteError(CheckpointError):
    """A server cannot be reached, or does not answer as it should."""


class UnsupportedError(CheckpointError):
    """A format, dtype or quantisation that Dovetail cannot merge."""


class TensorMismatchError(CheckpointError):
    """Tensors are missing or differ in shape between checkpoints."""


class NonFiniteError(CheckpointError):
    """An input holds a NaN or an infinity."""


class DTypeNameError(DovetailError, ValueError):
    """A user named a dtype that does not exist."""

    exit_code = 2


class OutputFormatError(DovetailError, ValueError):
    """A user asked for something that the output's format does not have."""

    exit_code = 2


class SystemLimitError(DovetailError, RuntimeError):
    """The system lets this process have no more of something: open files, or memory to map them."""

    exit_code = 4


class ThreadLimitError(SystemLimitError):
    """The system starts no more threads."""


_LACKING: Final = {
    errno.EMFILE: ("no further open file", "raise the limit on open files (ulimit -n)"),
    errno.ENFILE: ("no further open file on this machine", "close other programs"),
    errno.ENOMEM: ("no memory", "raise the limit on memory (ulimit -v, or the container's), or close other programs"),
}


def system_limit(error: OSError, path: object = None) -> SystemLimitError | None:
    """Give the error that tells people what the system has run out of; None if that is not what happened.

    Such an error says nothing about the file that was to be opened, which may be whole.
    """
    if error.errno not in _LACKING:
        return None
    lacking, action = _LACKING[error.errno]
    place = error.filename if path is None else path
    return SystemLimitError(
        f"the system has {lacking} for this process{f' to open {place}' if place else ''}",
        "room for a little more",
        f"{action}, and run the same command again to continue",
    )


def thread_limit(error: BaseException) -> ThreadLimitError | None:
    """Give the error that tells people of a thread that could not be started; None if that is not what happened."""
    if not isinstance(error, RuntimeError) or "start new thread" not in str(error):
        return None
    return ThreadLimitError(
        "the system starts no further thread",
        "room for a few more",
        "raise the limit on processes (ulimit -u, or the container's), or pass --workers 1, and run the same command "
        "again to continue",
    )

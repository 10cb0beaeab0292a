"""Asking stores through fsspec: requests are repeated after failures that may pass, and other errors become ours.

Texts of the stores' errors are never quoted, because they can contain a signed address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from dovetail.io.errors import ChangedFileError, CheckpointError, MissingFileError, RemoteError
from dovetail.io.remote.http_connection import FORBIDDEN, TRANSIENT
from dovetail.io.remote.limited import answer
from dovetail.io.remote.retrying import TransientError, with_retries

_NETWORK: Final = ("botocore", "aiobotocore", "aiohttp", "requests", "urllib3", "httpx", "gcsfs", "azure")
"""Packages for the network; after an error of theirs without a status, another attempt may succeed."""

_HERE: Final = ("file://", "local://", "memory://")
"""Beginnings of addresses on this machine, for which another attempt would not succeed either."""

LISTED_BYTES: Final = 8 * 2**20
"""Bytes that the list of a folder, or what is said of an object, is taken to have at most."""

T = TypeVar("T")


def ask(store: Callable[[], Any], question: Callable[[Any], T], address: str, most_bytes: int = LISTED_BYTES) -> T:
    """Ask a store a question, again after failures that may pass; it may take as long as so many bytes allow.

    Parameters
    ----------
    store
        Opens the store, or returns it if it is open.
    question
        Gets the store, asks it, and returns the answer.
    address
        Address of the object that the question is about, for error messages.
    most_bytes
        Most bytes that the answer has.

    Raises
    ------
    MissingFileError
        The object is missing, or may not be read.
    ChangedFileError
        The object has changed since it was opened.
    RemoteError
        The store does not answer, or does not answer as it should.

    """

    def attempt() -> T:
        try:
            return answer(lambda: question(store()), most_bytes)
        except (CheckpointError, TransientError, MemoryError):
            raise
        except Exception as error:  # each store has its own classes of errors
            raise _worded(error, address) from None

    return with_retries(attempt, address)


def _worded(error: Exception, address: str) -> Exception:
    status = getattr(error, "status", None) or getattr(error, "code", None) or getattr(error, "status_code", None)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return MissingFileError(f"there is no file at {address}", "a file", "check the address")
    if isinstance(error, PermissionError) or status in FORBIDDEN:
        return MissingFileError(
            f"the store does not let {address} be read", "a file that may be read", _advice(address)
        )
    if type(error).__name__ == "FileExpired":
        return ChangedFileError(
            f"{address} changed since it was opened",
            "the version that was opened",
            "restore it and run the same command again to continue, or pass --restart to begin anew",
        )
    if isinstance(error, TimeoutError):
        return TransientError("no answer in time")
    name = type(error).__name__
    if address.startswith(_HERE):
        reason = error.strerror if isinstance(error, OSError) and error.strerror else name
        return RemoteError(f"{address} cannot be read ({reason})", "an object that can be read", "check the address")
    if status in TRANSIENT:
        return TransientError(f"status {status}")
    if isinstance(status, int):
        return RemoteError(f"the server of {address} answers with status {status}", "status 200")
    if isinstance(error, OSError):
        return TransientError(error.strerror if error.errno and error.strerror else name)
    if type(error).__module__.partition(".")[0] in _NETWORK:
        return TransientError(name)
    return RemoteError(f"{address} cannot be read ({name})", "an answer", "check the address, and run again")


def _advice(address: str) -> str:
    if address.startswith("s3://"):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run aws configure"
    return "check the address, and set the credentials as the environment of fsspec has them"

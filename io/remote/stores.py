"""Stores that fsspec knows: asking them again after what may pass, and wording what may not.

Their errors are never quoted: texts of HTTP errors hold the address that was asked last, which can be signed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from dovetail.io.errors import ChangedFileError, CheckpointError, MissingFileError, RemoteError
from dovetail.io.remote.http_connection import FORBIDDEN, TRANSIENT
from dovetail.io.remote.retrying import TransientError, with_retries

_NETWORK: Final = ("botocore", "aiobotocore", "aiohttp", "requests", "urllib3", "httpx", "gcsfs", "azure")
"""Packages whose errors, other than those that a status explains, may be gone at the next attempt."""

_HERE: Final = ("file://", "local://", "memory://")
"""Addresses of this machine, where trying again is of no use."""

T = TypeVar("T")


def ask(store: Callable[[], Any], question: Callable[[Any], T], address: str) -> T:
    """Ask a store, trying again what may pass.

    Parameters
    ----------
    store
        Opens the store, or gives it if it is open.
    question
        Asks it.
    address
        What it is asked about.

    Raises
    ------
    MissingFileError
        It is not there, or may not be read.
    ChangedFileError
        It is of another version than the one asked for.
    RemoteError
        The store does not answer, or not as it should.

    """

    def attempt() -> T:
        try:
            return question(store())
        except (CheckpointError, TransientError, MemoryError):
            raise
        except Exception as error:  # every store has errors of its own
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

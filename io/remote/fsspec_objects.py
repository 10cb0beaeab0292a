"""Reading objects through fsspec, from ``s3://``, ``gs://``, ``memory://`` and other stores.

This module is a `dovetail.io.remote.objects.Objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

from dovetail.io.errors import UnsupportedError
from dovetail.io.extras import require
from dovetail.io.remote.retrying import TransientError
from dovetail.io.remote.stores import LISTED_BYTES, ask

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_VERSIONS = ("ETag", "etag", "generation", "mtime", "LastModified", "created")
"""Keys under which stores give the version of an object."""

T = TypeVar("T")


def read_object(address: str, limit_bytes: int) -> bytes | None:
    """Read a whole object; see `dovetail.io.remote.objects.Objects`."""

    def question(store: Any, path: str) -> bytes | None:
        try:
            # Asking for one byte more than allowed shows whether the object is longer, without asking for its size.
            return bytes(store.cat_file(path, start=0, end=limit_bytes + 1))
        except _ABSENT:
            return None

    return _ask(question, address, limit_bytes)


def read_part(address: str, begin: int, end: int | None) -> bytes | None:
    """Read a part of an object; see `dovetail.io.remote.objects.Objects`."""

    def question(store: Any, path: str) -> bytes | None:
        try:
            data = bytes(store.cat_file(path, start=begin, end=end))
        except _ABSENT:
            return None
        return data if len(data) == wanted else _complete(store, path, data, begin, end)

    wanted = -begin if end is None else end - begin
    return _ask(question, address, wanted)


def look_at(address: str) -> tuple[int, tuple[str, ...]]:
    """Give an object's size and version; see `dovetail.io.remote.objects.Objects`."""

    def question(store: Any, path: str) -> tuple[int, tuple[str, ...]]:
        store.invalidate_cache()  # so that it asks the server again
        found = store.info(path)
        known = [found.get(name) for name in _VERSIONS]
        return int(found.get("size") or 0), tuple(str(item) for item in known if item is not None)

    return _ask(question, address)


def list_below(folder: str) -> Iterable[str]:
    """List the paths of all objects below a folder; see `dovetail.io.remote.objects.Objects`."""

    def question(store: Any, path: str) -> list[str]:
        prefix = path.strip("/") + "/"
        try:
            found = store.find(path)
        except _ABSENT:
            return []
        return sorted(str(each).strip("/").removeprefix(prefix) for each in found)

    return _ask(question, folder)


def _complete(store: Any, path: str, data: bytes, begin: int, end: int | None) -> bytes:
    """Check that fewer bytes came only because the object ends, and not because the connection was cut.

    Raises
    ------
    TransientError
        The object has more bytes of the part.

    """
    size = store.info(path).get("size")
    if not isinstance(size, int):
        return data
    low = max(0, size + begin) if begin < 0 else min(begin, size)
    expected = (size if end is None else min(end, size)) - low
    if len(data) != max(0, expected):
        raise TransientError(f"{len(data)} bytes came instead of {expected}")
    return data


def _ask(question: Callable[[Any, str], T], address: str, most_bytes: int = LISTED_BYTES) -> T:
    """Ask the store of an address a question; the question gets the store, and the store's own path for the address."""
    if address.startswith("s3://"):
        from dovetail.io.remote import s3_transport

        return s3_transport.ask_store(lambda store: question(store, address.removeprefix("s3://")), address, most_bytes)
    store, path = _opened(address)
    return ask(lambda: store, lambda store: question(store, path), address, most_bytes)


def _opened(address: str) -> tuple[Any, str]:
    """Open the store of an address, and return it with its own path for the address.

    Raises
    ------
    UnsupportedError
        A package is not installed that the store needs, or fsspec does not know such addresses.

    """
    require("fsspec", "remote", "addresses of Zarr checkpoints")
    scheme, _, rest = address.partition("://")
    try:
        store = _store_of(f"{scheme}://{rest.partition('/')[0]}")
        path = str(store._strip_protocol(address)).rstrip("/")
    except ImportError as error:
        raise UnsupportedError(
            f"{address} cannot be opened ({error})", f"the package that reads {scheme}://", "install it"
        ) from error
    except ValueError as error:
        raise UnsupportedError(
            f"{address} cannot be opened ({error})", "an address such as s3://bucket/model.zarr", "check the address"
        ) from error
    return store, path


@lru_cache(maxsize=64)
def _store_of(address: str) -> Any:
    from fsspec.core import url_to_fs

    return url_to_fs(address)[0]

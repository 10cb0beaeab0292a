"""The interface for objects of a store at an address, such as the chunks of Zarr arrays.

Objects differ from the files of a safetensors checkpoint: there are very many of them, most are read whole, and a
missing object has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final, Protocol, cast

_MODULES: Final = {"http": "http_objects", "https": "http_objects", "hf": "hub_objects"}
"""Modules of this folder by scheme; all other addresses are read by ``fsspec_objects``."""


class Objects(Protocol):
    """The interface of a module that reads objects by one protocol; `objects_of` chooses the module.

    Every function repeats a request after failures that may pass. It raises `MissingFileError` if an object may not be
    read, `RemoteError` if a server does not answer as it should, and `UnsupportedError` if the server does not support
    the request, or if a package is not installed.
    """

    def read_object(self, address: str, limit_bytes: int) -> bytes | None:
        """Read a whole object, or of a longer one the first `limit_bytes` + 1 bytes; None if the object is missing."""
        ...

    def read_part(self, address: str, begin: int, end: int | None) -> bytes | None:
        """Read the bytes ``[begin, end)`` of an object, or those of them that it has; None if the object is missing.

        If `begin` is negative and `end` is None, the last ``-begin`` bytes of the object are read.
        """
        ...

    def look_at(self, address: str) -> tuple[int, tuple[str, ...]]:
        """Ask for an object's size in bytes, and for everything that tells its version, such as its ETag.

        Raises
        ------
        MissingFileError
            There is no such object.

        """
        ...

    def list_below(self, folder: str) -> Iterable[str]:
        """List the paths, relative to `folder`, of all objects below it, in order."""
        ...


def objects_of(address: str) -> Objects:
    """Import and return the module that reads the objects at an address."""
    hub_repository = address.startswith("hf://") and not address.startswith(("hf://datasets/", "hf://spaces/"))
    name = _MODULES.get(address.partition("://")[0], "fsspec_objects")
    if name == "hub_objects" and not hub_repository:
        name = "fsspec_objects"
    return cast(Objects, import_module(f"{__package__}.{name}"))

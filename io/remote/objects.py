"""Objects of a store at an address, such as the chunks of Zarr arrays: read whole or in part, looked at, listed.

Unlike the files of a safetensors checkpoint, there are very many of them, most are read whole, and one that is not
there has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final, Protocol, cast

_MODULES: Final = {"http": "http_objects", "https": "http_objects", "hf": "hub_objects"}
"""Modules of this folder by scheme; all other addresses are read by ``fsspec_objects``."""


class Objects(Protocol):
    """What a protocol must be able to do with objects; one module each, chosen by `objects_of`.

    Every function tries again what may pass, and raises `MissingFileError` where an object may not be read,
    `RemoteError` where a server does not answer as it should, and `UnsupportedError` where it, or what is installed
    here, cannot do what is asked.
    """

    def read_object(self, address: str, limit_bytes: int) -> bytes | None:
        """Read a whole object of at most `limit_bytes`, or that many and one byte more; None if there is none."""
        ...

    def read_part(self, address: str, begin: int, end: int | None) -> bytes | None:
        """Read the bytes ``[begin, end)`` of an object, as far as it has them; None if there is no object.

        A negative `begin`, with None for `end`, stands for as many bytes at the object's end.
        """
        ...

    def look_at(self, address: str) -> tuple[int, tuple[str, ...]]:
        """Give an object's size in bytes, and all that the server tells of its version, such as its ETag.

        Raises
        ------
        MissingFileError
            There is no such object.

        """
        ...

    def list_below(self, folder: str) -> Iterable[str]:
        """Give the paths, from `folder` on, of all objects below it, in order."""
        ...


def objects_of(address: str) -> Objects:
    """Give the module that reads the objects at an address; libraries are imported only now."""
    hub_repository = address.startswith("hf://") and not address.startswith(("hf://datasets/", "hf://spaces/"))
    name = _MODULES.get(address.partition("://")[0], "fsspec_objects")
    if name == "hub_objects" and not hub_repository:
        name = "fsspec_objects"
    return cast(Objects, import_module(f"{__package__}.{name}"))

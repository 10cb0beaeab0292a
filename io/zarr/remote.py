"""Zarr checkpoints at addresses."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from dovetail.io.errors import UnsupportedError
from dovetail.io.remote.addresses import SCHEMES, join
from dovetail.io.remote.objects import objects_of
from dovetail.io.zarr.place import WHOLE, ObjectPart, check_limit

_HUB: Final = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/@]+))?((?:/[^@]*)?)")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LONGEST_ADDRESS: Final = 2_000


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """An address: ``https://``, ``hf://``, ``s3://``, and whatever else fsspec knows."""

    address: str
    """The address of the group, without a slash at its end."""

    @property
    def label(self) -> str:
        """The address."""
        return self.address

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read an object: see `Place.read`."""
        begin, end = part
        name, objects = f"{self.address}/{key}", objects_of(self.address)
        if part == WHOLE:
            data = objects.read_object(join(self.address, key), limit_bytes)
        else:
            # One byte more than allowed tells that there is more, without asking for the size first.
            stop = None if begin < 0 else begin + limit_bytes + 1 if end is None else end
            check_limit(name, 0 if end is None and begin >= 0 else (stop or 0) - begin, limit_bytes)
            data = objects.read_part(join(self.address, key), begin, stop)
        if data is not None:
            check_limit(name, len(data), limit_bytes)
        return data

    def prefetch(self, key: str) -> None:
        """Do nothing: objects at addresses are not read ahead."""

    def fingerprint(self, key: str) -> tuple[int, str]:
        """Give an object's size and what else the server tells of its version, such as its ETag."""
        size_bytes, told = objects_of(self.address).look_at(join(self.address, key))
        return size_bytes, repr(list(told))

    def keys(self, limit: int) -> Iterator[str]:
        """List all objects, at most so many."""
        return itertools.islice(objects_of(self.address).list_below(self.address), limit)


def is_zarr_address(text: str) -> bool:
    """Tell whether a text is an address of a Zarr checkpoint.

    An address is one of a Zarr checkpoint if a part of its path ends in ``.zarr``, or if no other checkpoints are read
    from its scheme: ``memory://``, ``file://``, ``gs://`` and the other schemes of fsspec.
    """
    found = _SCHEME.match(text)
    if found is None:
        return False
    scheme = found.group(0).removesuffix("://").lower()
    ending = r"\.zarr(?=[/?#@]|$)" if scheme == "hf" else r"\.zarr(?=[/?#]|$)"  # a revision can follow a model's name
    return scheme not in SCHEMES or re.search(ending, text[found.end() :]) is not None


def check_zarr_address(text: str) -> str:
    """Check an address, and return it without a slash at its end, and with the commit where it is of a hub.

    Raises
    ------
    UnsupportedError
        It holds what manifests and messages must not show, or cannot be an address.
    MissingFileError, RemoteError
        The hub does not know the model, or does not answer.

    """
    address = text.rstrip("/")
    shown = re.split(r"[?#]", address, maxsplit=1)[0]
    host = address.split("://", 1)[-1].split("/", 1)[0]
    if "@" in host and not address.startswith("hf://"):
        raise UnsupportedError(
            "an address holds a user or a password, which manifests and messages would show",
            "an address without secrets",
            "set the credentials as the environment of fsspec has them",
        )
    if shown != address or not address.isprintable() or "::" in address or len(address) > _LONGEST_ADDRESS:
        raise UnsupportedError(
            f"address {shown!r} has a query, a fragment, or a chain of file systems",
            "a plain address such as s3://bucket/model.zarr",
            "correct the address",
        )
    return _pinned(address)


def _pinned(address: str) -> str:
    """Name the very commit of a model on a hub, whose branches move; other addresses stay as they are."""
    found = _HUB.fullmatch(address)
    if found is None or found.group(1).startswith(("datasets/", "spaces/")):
        return address
    from dovetail.io.remote import hub

    name, revision, rest = found.groups()
    return f"hf://{name}@{hub.look_up(name, unquote(revision) if revision else None).commit}{rest}"

"""Zarr checkpoints at addresses, read through fsspec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

from dovetail.io.errors import MissingFileError, UnsupportedError, ZarrError
from dovetail.io.remote.addresses import SCHEMES
from dovetail.io.zarr.place import ObjectPart, check_limit

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LONGEST_ADDRESS: Final = 2_000


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """An address that fsspec knows: ``s3://``, ``gs://``, ``https://``, ``memory://``, ``file://`` and others."""

    address: str
    """The address of the group, without a slash at its end."""

    @property
    def label(self) -> str:
        """The address."""
        return self.address

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read an object: see `Place.read`."""
        system, root = file_system(self.address)
        begin, end = part
        try:
            # One byte more than allowed tells that there is more, without asking for the size first.
            if begin >= 0:
                wanted = limit_bytes + 1 if end is None else end - begin
                check_limit(f"{self.address}/{key}", 0 if end is None else wanted, limit_bytes)
                data = system.cat_file(f"{root}/{key}", start=begin, end=begin + wanted)
            else:
                check_limit(f"{self.address}/{key}", -begin, limit_bytes)
                data = system.cat_file(f"{root}/{key}", start=begin, end=None)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except (ZarrError, MemoryError):
            raise
        except Exception as error:  # every file system has errors of its own
            self.fail(error, key)
        check_limit(f"{self.address}/{key}", len(data), limit_bytes)
        return bytes(data)

    def prefetch(self, key: str) -> None:
        """Do nothing."""

    def fingerprint(self, key: str) -> tuple[int, str]:
        """Give an object's size and what else the server tells of its version, such as its ETag."""
        system, root = file_system(self.address)
        try:
            info = system.info(f"{root}/{key}")
        except Exception as error:
            self.fail(error, key)
        version = [info.get(name) for name in ("ETag", "etag", "generation", "mtime", "LastModified", "created")]
        return int(info.get("size") or 0), repr([str(item) for item in version if item is not None])

    def keys(self, limit: int) -> Iterator[str]:
        """List all objects, at most so many."""
        system, root = file_system(self.address)
        try:
            found = system.find(root)
        except FileNotFoundError:
            return
        except Exception as error:
            self.fail(error, "")
        prefix = root.strip("/") + "/"
        for path in sorted(found)[:limit]:
            yield str(path).strip("/").removeprefix(prefix)

    def fail(self, error: Exception, key: str) -> NoReturn:
        """Turn an error of a file system into one of ours."""
        raise MissingFileError(
            f"{self.address}/{key} cannot be read ({type(error).__name__}: {error})".replace("/ ", " "),
            "an object that can be read from here",
            "check the address, the credentials and the network, and run again",
        ) from error


def is_zarr_address(text: str) -> bool:
    """Tell whether a text is an address of a Zarr checkpoint.

    Such are addresses whose path has a part that ends in ``.zarr``, and all of schemes that other checkpoints are not
    read from: ``memory://``, ``file://``, ``gs://`` and whatever else fsspec knows.
    """
    found = _SCHEME.match(text)
    if found is None:
        return False
    scheme = found.group(0).removesuffix("://").lower()
    return scheme not in SCHEMES or re.search(r"\.zarr(?=[/?#]|$)", text[found.end() :]) is not None


def check_zarr_address(text: str) -> str:
    """Check an address, and return it without a slash at its end.

    Raises
    ------
    UnsupportedError
        It holds what manifests and messages must not show, or cannot be an address.

    """
    address = text.rstrip("/")
    shown = re.split(r"[?#]", address, maxsplit=1)[0]
    host = address.split("://", 1)[-1].split("/", 1)[0]
    if "@" in host:
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
    return address


@lru_cache(maxsize=64)
def file_system(address: str) -> tuple[Any, str]:
    """Open the file system of an address; gives it and the path in it.

    Raises
    ------
    UnsupportedError
        A package that is needed is missing.

    """
    scheme = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UnsupportedError(
            f"{address} is an address, and the package fsspec is missing",
            "it for addresses",
            "pip install 'dovetail[remote]'",
        ) from error
    try:
        system, root = url_to_fs(address)
    except ImportError as error:
        raise UnsupportedError(
            f"{address} cannot be opened ({error})", f"the package that reads {scheme}://", "install it"
        ) from error
    except ValueError as error:
        raise UnsupportedError(
            f"{address} cannot be opened ({error})", "an address such as s3://bucket/model.zarr", "check the address"
        ) from error
    return system, str(root).rstrip("/")

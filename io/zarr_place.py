"""Where the objects of a Zarr checkpoint are: a folder, a zip file or an address. Places are picklable.

Each reads whole objects or ranges of them by key, at most as much as the caller allows, synchronously: whoever reads
waits in a thread of its own, never in an event loop.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from dovetail.io.errors import ChangedFileError, MissingFileError, UnsupportedError, ZarrError

if TYPE_CHECKING:
    from collections.abc import Iterator

Range = tuple[int, int | None]
"""First byte, counted from the end if negative, and the byte after the last; None for the end."""

WHOLE: Final[Range] = (0, None)
"""The range that is everything."""

_MAX_OPEN_ZIPS: Final = 16
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LONGEST_ADDRESS: Final = 2_000


class Place(Protocol):
    """The objects of one checkpoint."""

    @property
    def label(self) -> str:
        """What people call the place."""

    def read(self, key: str, part: Range, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read an object, or a part of it; ``None`` if there is none.

        Parameters
        ----------
        key
            Which object.
        part
            Which part of it.
        limit_bytes
            Most bytes that may be read.
        newest_ns
            Latest modification time, in nanoseconds since 1970, that the object may have, where the place has such.

        Raises
        ------
        ZarrError
            There is more than the limit.
        ChangedFileError
            The object was written after the checkpoint was opened, or cannot be read any more.

        """

    def prefetch(self, key: str) -> None:
        """Start reading an object, without waiting for it."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """A folder on this machine."""

    path: str
    """The folder."""

    @property
    def label(self) -> str:
        """The folder."""
        return self.path

    def read(self, key: str, part: Range, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read a file: see `Place.read`."""
        path = f"{self.path}/{key}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ZarrError(f"{path} is no regular file", "a chunk", "write the checkpoint again")
            if status.st_mtime_ns > newest_ns:
                raise ChangedFileError(
                    f"{path} changed while it was in use: modified at {status.st_mtime_ns} ns",
                    f"no change after {newest_ns} ns",
                    "leave checkpoints alone while they are read, and run again",
                )
            begin, end = resolve(part, status.st_size)
            check_limit(path, end - begin, limit_bytes)
            with os.fdopen(descriptor, "rb", closefd=False) as file:  # one call of pread gives 2 GiB at most
                file.seek(begin)
                data = file.read(end - begin)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(descriptor)
        if len(data) != end - begin:
            raise ChangedFileError(
                f"{path} gave {len(data)} bytes at {begin}", f"{end - begin} bytes", "check the disk, and run again"
            )
        return data

    def prefetch(self, key: str) -> None:
        """Ask the system to read a file."""
        try:
            descriptor = os.open(f"{self.path}/{key}", os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except OSError:  # a hint: reading will say what is wrong
            return
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class ZipPlace:
    """A zip file on this machine."""

    path: str
    """The file."""
    size_bytes: int
    """Size that it must have."""
    mtime_ns: int
    """Modification time that it must have, in nanoseconds since 1970."""

    @property
    def label(self) -> str:
        """The file."""
        return self.path

    def read(self, key: str, part: Range, limit_bytes: int, newest_ns: int) -> bytes | None:
        """Read a member: see `Place.read`."""
        archive, lock = _open_zip(self)
        with lock:
            try:
                info = archive.getinfo(key)
            except KeyError:
                return None
            begin, end = resolve(part, info.file_size)
            check_limit(f"{self.path}/{key}", end - begin, limit_bytes)
            if info.flag_bits & 1:
                raise UnsupportedError(f"{self.path}/{key} is encrypted", "a zip file without a password", "unpack it")
            try:
                with archive.open(info) as member:
                    member.seek(begin)
                    data = member.read(end - begin)
            except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
                raise ZarrError(
                    f"{self.path}/{key} cannot be read ({error})", "a sound zip file", "copy the file again"
                ) from error
            except Exception as error:  # zlib and lzma have errors of their own
                raise ZarrError(
                    f"{self.path}/{key} cannot be unpacked ({error})", "a sound zip file", "copy the file again"
                ) from error
        if len(data) != end - begin:
            raise ZarrError(f"{self.path}/{key} gave {len(data)} bytes", f"{end - begin} bytes", "copy the file again")
        return data

    def prefetch(self, key: str) -> None:
        """Do nothing: members of one file are read in its order anyway."""

    def infos(self) -> list[zipfile.ZipInfo]:
        """List the members."""
        archive, lock = _open_zip(self)
        with lock:
            return [info for info in archive.infolist() if not info.is_dir()]


_zips: OrderedDict[ZipPlace, tuple[zipfile.ZipFile, threading.Lock]] = OrderedDict()
_zips_lock = threading.Lock()


def _open_zip(place: ZipPlace) -> tuple[zipfile.ZipFile, threading.Lock]:
    """Give this process's open archive of a place, and the lock under which it is read."""
    with _zips_lock:
        if place not in _zips:
            _zips[place] = (_opened_zip(place), threading.Lock())
            while len(_zips) > _MAX_OPEN_ZIPS:
                _zips.popitem(last=False)  # closes when nobody reads it any more
        _zips.move_to_end(place)
        return _zips[place]


def _opened_zip(place: ZipPlace) -> zipfile.ZipFile:
    try:
        status = os.stat(place.path)  # noqa: PTH116 - a string
        if (status.st_size, status.st_mtime_ns) != (place.size_bytes, place.mtime_ns):
            raise ChangedFileError(
                f"{place.path} changed since the checkpoint was opened",
                f"{place.size_bytes} bytes, modified at {place.mtime_ns} ns",
                "leave checkpoints alone while they are read, and run again",
            )
        return zipfile.ZipFile(place.path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ZarrError(f"{place.path} is no zip file ({error})", "a zip store", "copy the file again") from error
    except OSError as error:
        raise MissingFileError(
            f"cannot open {place.path} ({error.strerror})", "a zip store", "put it back and run again"
        ) from error


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """An address that fsspec knows: ``s3://``, ``gs://``, ``https://``, ``memory://``, ``file://`` and others."""

    address: str
    """The address of the group, without a slash at its end."""

    @property
    def label(self) -> str:
        """The address."""
        return self.address

    def read(self, key: str, part: Range, limit_bytes: int, newest_ns: int) -> bytes | None:
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
    """Tell whether a text is an address of a Zarr checkpoint rather than a path."""
    return _SCHEME.match(text) is not None


def check_address(text: str) -> str:
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


def resolve(part: Range, size_bytes: int) -> tuple[int, int]:
    """Turn a part of an object of known size into its first byte and the byte after its last."""
    begin, end = part
    if begin < 0:
        begin = max(0, size_bytes + begin)
    end = size_bytes if end is None else min(end, size_bytes)
    return min(begin, end), end


def check_limit(name: str, size_bytes: int, limit_bytes: int) -> None:
    """Refuse to read more than what a chunk can need.

    Raises
    ------
    ZarrError
        It is more.

    """
    if size_bytes > limit_bytes:
        raise ZarrError(
            f"{name} holds {size_bytes} bytes or more to be read at once",
            f"at most {limit_bytes} for its metadata",
            "write the checkpoint again",
        )


def _unreadable(path: str, error: OSError) -> ChangedFileError:
    return ChangedFileError(
        f"{path} can no longer be read ({error.strerror})", "the file that was opened", "check it, and run again"
    )


def folder_place(folder: Path) -> FolderPlace:
    """Give the place of a folder."""
    return FolderPlace(str(folder))

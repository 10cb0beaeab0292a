"""The place that is a zip file: Zarr checkpoints that are read without unpacking them."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from dovetail.io.errors import (
    ChangedFileError,
    DovetailError,
    MissingFileError,
    UnsupportedError,
    ZarrError,
    system_limit,
)
from dovetail.io.files.smallfile import without_waiting
from dovetail.io.files.zip_end import MAX_DIRECTORY_BYTES, directory_bytes
from dovetail.io.zarr.place import ObjectPart, check_limit, resolve

_MAX_OPEN_ZIPS: Final = 16
_MOST_SKIPPED_BYTES: Final = 2**28


@dataclass(frozen=True, slots=True)
class ZipPlace:
    """The place that is a zip file on this machine."""

    path: str
    """Path of the file."""
    size_bytes: int
    """Size of the file when the checkpoint was opened; another size is an error."""
    mtime_ns: int
    """Modification time then, in nanoseconds since 1970; another time is an error."""

    @property
    def label(self) -> str:
        """The path of the file."""
        return self.path

    def read(self, key: str, part: ObjectPart, limit_bytes: int, newest_ns: int) -> bytes | None:
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
            if begin > _MOST_SKIPPED_BYTES and info.compress_type != zipfile.ZIP_STORED:
                raise UnsupportedError(
                    f"{self.path}/{key} is compressed, and what is wanted of it begins at byte {begin}",
                    f"at most {_MOST_SKIPPED_BYTES}, because all bytes before are decompressed each time",
                    "make the zip file without compression, as the chunks have their own",
                )
            try:
                with archive.open(info) as member:
                    member.seek(begin)
                    data = member.read(end - begin)
            except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
                raise ZarrError(
                    f"{self.path}/{key} cannot be read ({error})", "a sound zip file", "copy the file again"
                ) from error
            except Exception as error:  # zlib and lzma raise errors of their own classes
                raise ZarrError(
                    f"{self.path}/{key} cannot be unpacked ({error})", "a sound zip file", "copy the file again"
                ) from error
        if len(data) != end - begin:
            raise ZarrError(f"{self.path}/{key} gave {len(data)} bytes", f"{end - begin} bytes", "copy the file again")
        return data

    def prefetch(self, key: str) -> None:
        """Do nothing: the members of a file are read in their order anyway."""

    def infos(self) -> list[zipfile.ZipInfo]:
        """List the members."""
        archive, lock = _open_zip(self)
        with lock:
            return [info for info in archive.infolist() if not info.filename.endswith("/")]


_zips: OrderedDict[ZipPlace, tuple[zipfile.ZipFile, threading.Lock]] = OrderedDict()
_zips_lock = threading.Lock()


def _open_zip(place: ZipPlace) -> tuple[zipfile.ZipFile, threading.Lock]:
    """Give the archive of a place, which each process opens once, and the lock that its readers hold."""
    with _zips_lock:
        if place not in _zips:
            _zips[place] = (_opened_zip(place), threading.Lock())
            while len(_zips) > _MAX_OPEN_ZIPS:
                _zips.popitem(last=False)  # it is closed when its last reader is done
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
        with open(place.path, "rb", opener=without_waiting) as file:
            size = directory_bytes(file, status.st_size)
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ZarrError(
                f"{place.path} says that its directory has {size} bytes", f"at most {MAX_DIRECTORY_BYTES}", "unpack it"
            )
        return zipfile.ZipFile(place.path)
    except (DovetailError, MemoryError):
        raise
    except OSError as error:
        raise system_limit(error) or MissingFileError(
            f"cannot open {place.path} ({error.strerror})", "a zip store", "put it back and run again"
        ) from error
    except Exception as error:  # a damaged directory makes zipfile raise errors of any class
        raise ZarrError(f"{place.path} is no zip file ({error})", "a zip store", "copy the file again") from error

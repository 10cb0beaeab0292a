"""Finding the storages of a PyTorch file in the zip archive that ``torch.save`` writes.

The standard library reads the archive's directory. Two things are read by hand, because the standard library does not
give them: the length of the directory, because it is checked before ``zipfile`` reads all of the directory into memory;
and the header before each storage, which shows where the bytes of the storage begin in the file. This module also
checks that every storage is stored uncompressed, so that its bytes can be mapped.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from dovetail.io.errors import CheckpointError, TorchFileError, UnsupportedError
from dovetail.io.files.zip_end import MAX_DIRECTORY_BYTES, directory_bytes

MAX_PICKLE_BYTES: Final = 100_000_000
"""Longest description of the tensors that is read, in bytes, which is the length of the longest safetensors header."""

_ZIP_MAGIC: Final = b"PK\x03\x04"
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SAVE_AGAIN: Final = "save it again with torch.save(state_dict, path), or convert it to safetensors"


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """The description and the storages in a PyTorch file."""

    pickle: bytes
    """The pickled description of the tensors, which this process never unpickles."""
    storages: dict[int, int]
    """Size in bytes of every storage, by the position of its first byte in the file."""


def read_archive(path: Path, file: BinaryIO, file_size_bytes: int) -> TorchArchive:
    """Read the directory of a PyTorch file.

    Raises
    ------
    TorchFileError
        If the archive is damaged, or is not as ``torch.save`` writes archives.
    UnsupportedError
        If the file is big endian, or in the format before PyTorch 1.6, which cannot be mapped.

    """
    if file.read(4) != _ZIP_MAGIC:
        raise UnsupportedError(
            f"{path} is not a zip archive: either it is not a PyTorch file, or it has the format before PyTorch 1.6",
            "a file that PyTorch 1.6 or later has saved",
            _SAVE_AGAIN,
        )
    if (size := _directory_bytes(path, file, file_size_bytes)) > MAX_DIRECTORY_BYTES:
        _fail(f"the archive {path} says its directory is {size} bytes long", f"at most {MAX_DIRECTORY_BYTES}")
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            pickles = [record for record in records if record.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].filename.count("/") != 1:
                _fail(f"the archive {path} has {len(pickles)} records data.pkl", "one, as torch.save writes")
            if pickles[0].file_size > MAX_PICKLE_BYTES or pickles[0].compress_type != zipfile.ZIP_STORED:
                _fail(
                    f"data.pkl in {path} has {pickles[0].file_size} bytes", f"at most {MAX_PICKLE_BYTES}, uncompressed"
                )
            pickle = archive.read(pickles[0])
            home = pickles[0].filename.removesuffix("data.pkl")
            names = {record.filename for record in records}
            if f"{home}byteorder" in names and archive.getinfo(f"{home}byteorder").file_size < 16:
                _check_byteorder(path, archive.read(f"{home}byteorder"))
            data = [record for record in records if record.filename.startswith(f"{home}data/")]
        return TorchArchive(pickle, dict(_place(path, file, record, file_size_bytes) for record in data))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged directory makes zipfile seek before the file, and raise errors of any class
        raise TorchFileError(f"{path} is a damaged archive ({error})", "a PyTorch file", "download it again") from error


def _place(path: Path, file: BinaryIO, record: zipfile.ZipInfo, file_size_bytes: int) -> tuple[int, int]:
    """Find the position and the size of a record's bytes in the file."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        _fail(f"{record.filename!r} in {path} is compressed or encrypted", "storages as they are in memory")
    file.seek(record.header_offset)
    raw = file.read(_LOCAL.size)
    if len(raw) < _LOCAL.size or raw[:4] != _ZIP_MAGIC:
        _fail(f"{record.filename!r} in {path} is not where the directory says", "a record there")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(raw)
    begin = record.header_offset + _LOCAL.size + name_bytes + extra_bytes
    if begin + record.file_size > file_size_bytes:
        _fail(f"{record.filename!r} in {path} ends outside the file", f"at most {file_size_bytes} bytes")
    return begin, record.file_size


def _directory_bytes(path: Path, file: BinaryIO, file_size_bytes: int) -> int:
    """Read the length of the directory from the end of the archive, so that it can be checked before it is read."""
    if (size := directory_bytes(file, file_size_bytes)) is None:
        _fail(
            f"the archive {path} has no directory at its end",
            "a whole file",
            "the file is probably truncated: download it again",
        )
    return size


def _check_byteorder(path: Path, order: bytes) -> None:
    if order != b"little":
        raise UnsupportedError(f"{path} was saved with byte order {order!r}", "little", _SAVE_AGAIN)


def _fail(what: str, expected: str, action: str = _SAVE_AGAIN) -> NoReturn:
    raise TorchFileError(what, expected, action)

"""Reading untrusted safetensors headers strictly, and building headers for output files.

A safetensors file consists of eight bytes with the header's length, little endian; the header, a JSON object; and one
buffer of tensor data. This module checks everything that a header says against the size of its file, so that all other
code may rely on the offsets.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, UNSUPPORTED_DTYPES, DType
from dovetail.io.errors import CheckpointError, HeaderError, MissingFileError, UnsupportedError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.smallfile import open_descriptor
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.formats.parsed import parsed_once

MAX_HEADER_BYTES: Final = 100_000_000
"""Longest header that the format allows, in bytes."""

MAX_NAME_LENGTH: Final = 500
"""Longest tensor name that is accepted, in characters, because names appear in messages and paths."""

LENGTH_BYTES: Final = 8
"""Size of the field that holds the header's length, in bytes."""

_MAX_DIMENSIONS: Final = 64  # numpy's own limit
_MAX_SIZE: Final = 2**63 - 1
_ALIGNMENT_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_FIELDS: Final = frozenset(("dtype", "shape", "data_offsets"))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_REDOWNLOAD: Final = "download or export the file again"


class HeaderEntry(NamedTuple):  # faster to make than a frozen dataclass, and there can be 50,000
    """The description of one tensor in a header."""

    name: str
    """Tensor name."""
    dtype: DType
    """Element type."""
    shape: tuple[int, ...]
    """Dimensions; empty for a scalar."""
    begin_bytes: int
    """First byte, counted from the start of the tensor data."""
    end_bytes: int
    """One past the last byte, counted from the start of the tensor data."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header that has been checked."""

    entries: tuple[HeaderEntry, ...]
    """The tensors, in the order of their data."""
    metadata: Mapping[str, str]
    """The header's free-form ``__metadata__``."""
    data_start_bytes: int
    """Position of the tensor data in the file."""
    raw: bytes
    """The bytes of the length field and of the header, as stored."""


def read_header(path: Path) -> tuple[Header, int, int]:
    """Read and check the header of a safetensors file; no tensor data is read.

    Returns
    -------
    header, size_bytes, mtime_ns
        The header, and the size and modification time that the file had when it was read.

    Raises
    ------
    HeaderError
        If the file breaks any rule of the format.
    MissingFileError
        If the file is missing or cannot be opened.
    UnsupportedError
        If the header is valid, but has a dtype or a tensor name that Dovetail does not support.

    """
    with open_regular(path, HeaderError, "a safetensors file") as file:
        status = os.fstat(file.fileno())
        prefix = _read_up_to(file, LENGTH_BYTES)
        length = check_length(prefix, status.st_size, str(path))
        raw = prefix + _read_up_to(file, length)
    if (got := len(raw) - LENGTH_BYTES) < length:
        _fail(f"{path} ended after {got} of {length} header bytes", "the whole header", _REDOWNLOAD)
    header = parsed_once((raw, status.st_size), lambda: parse_header(raw, status.st_size, str(path)))
    return header, status.st_size, status.st_mtime_ns


def open_regular(path: Path, error_kind: type[CheckpointError], expected: str) -> BinaryIO:
    """Open a regular file for unbuffered reading; devices, folders and pipes are refused.

    Parameters
    ----------
    path
        The file.
    error_kind
        Class of the error for what is not a regular file.
    expected
        What the file should have been, for the error message.

    Raises
    ------
    MissingFileError
        If the file cannot be opened.
    CheckpointError
        If the file is not regular; the error is of the class `error_kind`.

    """
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except OSError as error:
        raise MissingFileError(f"cannot open {path} ({error.strerror})", expected, "check the path") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error_kind(f"{path} is not a regular file", expected, "check the path")
    return os.fdopen(descriptor, "rb", buffering=0)


@collector_paused()
def parse_header(raw: bytes, file_size_bytes: int, file: str) -> Header:
    """Check a header against the size of its file.

    Parameters
    ----------
    raw
        The file's first bytes: the length field and at least the whole header.
    file_size_bytes
        Size of the whole file.
    file
        Path or address of the file, for error messages.

    Raises
    ------
    HeaderError, UnsupportedError
        As `read_header` raises them.

    """
    length = check_length(raw[:LENGTH_BYTES], file_size_bytes, file)
    data_start_bytes = LENGTH_BYTES + length
    document = _decode(raw[LENGTH_BYTES:data_start_bytes], file)
    metadata = _check_metadata(document.pop(_METADATA, {}), file)
    entries = [_check_entry(name, fields, file) for name, fields in document.items()]
    entries.sort(key=lambda entry: (entry.begin_bytes, entry.end_bytes))
    _check_geometry(entries, file_size_bytes - data_start_bytes, file)
    return Header(tuple(entries), metadata, data_start_bytes, raw[:data_start_bytes])


def build_header(
    tensors: Iterable[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Build the first bytes of a safetensors file, up to where the tensor data begins.

    Parameters
    ----------
    tensors
        Name, dtype and shape of each tensor, in the order in which their data will follow, without gaps.
    metadata
        The header's ``__metadata__``; by default ``{"format": "pt"}``, which `transformers` asks for.

    Returns
    -------
    bytes
        Length field and header, padded with spaces to a multiple of 8 bytes, as the official writer does.

    Raises
    ------
    HeaderError
        If two tensors have the same name, or the header is longer than the format allows.

    """
    document: dict[str, object] = {_METADATA: dict({"format": "pt"} if metadata is None else metadata)}
    position = 0
    for name, dtype, shape in tensors:
        if name in document:
            _fail(f"two tensors are called {name!r}", "one name for one tensor", "rename one of them")
        end = position + math.prod(shape) * dtype.itemsize
        document[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": (position, end)}
        position = end
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % _ALIGNMENT_BYTES)
    if len(body) > MAX_HEADER_BYTES:
        _fail(
            f"the header would take {len(body)} bytes",
            f"at most {MAX_HEADER_BYTES}",
            "use a smaller shard size, so that each file holds fewer tensors",
        )
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def _fail(what: str, expected: str, action: str = _REDOWNLOAD) -> NoReturn:
    raise HeaderError(what, expected, action)


def _read_up_to(file: Any, count: int) -> bytes:
    """Read `count` bytes, or fewer if the file ends before."""
    parts: list[bytes] = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def check_length(prefix: bytes, file_size_bytes: int, file: str) -> int:
    """Read the header's length in bytes from the first eight bytes of a file.

    Raises
    ------
    HeaderError
        If the header is longer than the format allows, or than the file.

    """
    if len(prefix) < LENGTH_BYTES:
        _fail(f"{file} is {len(prefix)} bytes long", "at least the 8 bytes of a safetensors length field")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        _fail(
            f"{file} says its header is {length} bytes long",
            f"at most {MAX_HEADER_BYTES}",
            "check that this is a safetensors file, or download it again",
        )
    if LENGTH_BYTES + length > file_size_bytes:
        _fail(
            f"{file} is truncated: it has {file_size_bytes} bytes",
            f"a header of {length} bytes after the 8 bytes of its length",
        )
    return length


def _decode(body: bytes, file: str) -> dict[str, Any]:
    try:
        return decode_json(body)
    except JsonDefectError as error:
        _fail(f"the header of {file} {error}", "a JSON object with each name once")


def _check_metadata(metadata: Any, file: str) -> dict[str, str]:
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        _fail(f"{_METADATA} in the header of {file} is {brief(metadata)}", "an object of strings")
    return metadata


def check_name(name: str, file: str) -> None:
    """Refuse a tensor name that is too long, that has control characters, or that cannot be a part of a Zarr path.

    Raises
    ------
    HeaderError
        If the name has control characters.
    UnsupportedError
        If the name is too long, or cannot be a part of a path.

    """
    if len(name) > MAX_NAME_LENGTH:
        raise UnsupportedError(
            f"a tensor name in {file} has {len(name)} characters ({brief(name)})",
            f"at most {MAX_NAME_LENGTH}",
            "rename the tensor and save the file again",
        )
    if bad := _CONTROL.search(name):
        _fail(
            f"tensor name {name!r} in {file} has the character U+{ord(bad.group()):04X}",
            "a name without control characters",
            "rename the tensor and save the file again",
        )
    if "/" in name or "\\" in name or not name.strip("."):
        raise UnsupportedError(
            f"tensor name {name!r} in {file} cannot be part of a path",
            "a name without slashes that is not empty and not only dots",
            "rename the tensor and save the file again",
        )


def _check_entry(name: str, fields: Any, file: str) -> HeaderEntry:
    """Check the parts of a tensor's description that do not depend on other tensors."""
    if not name.isprintable() or "/" in name or "\\" in name or not name.strip(".") or len(name) > MAX_NAME_LENGTH:
        check_name(name, file)
    if type(fields) is not dict or fields.keys() != _FIELDS:
        _fail(
            f"tensor {name!r} in {file} is described by {brief(fields)}",
            "an object of exactly dtype, shape and data_offsets",
        )
    dtype = DTYPES.get(fields["dtype"]) if type(fields["dtype"]) is str else None
    if dtype is None and type(fields["dtype"]) is str:
        dtype = QUANTISED_DTYPES.get(fields["dtype"])
    if dtype is None:
        _refuse_dtype(name, fields["dtype"], file)
    shape = fields["shape"]
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        _fail(
            f"tensor {name!r} in {file} has the shape {brief(shape)}",
            f"a list of at most {_MAX_DIMENSIONS} whole numbers from 0 to 2^63-1",
        )
    offsets = fields["data_offsets"]
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(
            f"tensor {name!r} in {file} has the data_offsets {brief(offsets)}",
            "two whole numbers, begin <= end",
        )
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize
    if dtype.packed_bits:
        needed, rest = divmod(math.prod(shape) * dtype.packed_bits, 8)
        if rest:
            _fail(f"tensor {name!r} in {file} of {dtype.name} has the shape {brief(shape)}", "a whole number of bytes")
    if needed != end - begin:
        _fail(
            f"tensor {name!r} in {file} has {end - begin} bytes",
            f"{needed} for shape {shape} of {dtype.name}",
        )
    if needed == 0 and math.prod(filter(None, shape)) * dtype.itemsize > _MAX_SIZE:
        _fail(f"tensor {name!r} in {file} has the shape {brief(shape)}", "a product of sizes below 2^63")
    return HeaderEntry(name, dtype, tuple(shape), begin, end)


def _is_sizes(value: Any) -> bool:
    """Whether `value` is a list of integers from 0 to 2^63-1; ``True`` does not count as one."""
    if type(value) is not list:
        return False
    for item in value:  # noqa: SIM110 - all() over a generator takes twice as long, and there can be 100,000 lists
        if type(item) is not int or not 0 <= item <= _MAX_SIZE:
            return False
    return True


def _refuse_dtype(name: str, dtype: Any, file: str) -> NoReturn:
    if type(dtype) is str and dtype in UNSUPPORTED_DTYPES:
        raise UnsupportedError(
            f"tensor {name!r} in {file} has dtype {dtype} ({UNSUPPORTED_DTYPES[dtype]})",
            "one of " + ", ".join(DTYPES),
            "convert the checkpoint to bfloat16 or float32 first",
        )
    _fail(f"tensor {name!r} in {file} has the unknown dtype {brief(dtype)}", "one of " + ", ".join(DTYPES))


def _check_geometry(entries: list[HeaderEntry], data_bytes: int, file: str) -> None:
    """Check that the tensors, sorted by offset, cover the data exactly once, without gaps or overlaps."""
    position = 0
    previous = None
    for entry in entries:
        if entry.begin_bytes != position:
            what = "overlaps" if entry.begin_bytes < position else "leaves a gap after"
            before = f"tensor {previous.name!r}" if previous else "the header"
            _fail(
                f"tensor {entry.name!r} in {file} begins at byte {entry.begin_bytes} and {what} {before}",
                f"byte {position}",
            )
        if entry.end_bytes > data_bytes:
            _fail(
                f"tensor {entry.name!r} in {file} ends at byte {entry.end_bytes}, outside the file",
                f"at most {data_bytes} bytes of tensor data",
                "the file is probably truncated: download it again",
            )
        position, previous = entry.end_bytes, entry
    if position != data_bytes:
        _fail(
            f"{file} has {data_bytes} bytes of tensor data",
            f"{position}, where its last tensor ends",
        )

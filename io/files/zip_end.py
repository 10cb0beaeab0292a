"""Reading how long the directory of a zip file is, before `zipfile` reads all of it into memory."""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

MAX_DIRECTORY_BYTES: Final = 64 * 2**20
"""Longest directory that is read, in bytes: of about a million records, which take ten times as much memory."""

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64_BYTES: Final = 20
_LONGEST_COMMENT: Final = 2**16 - 1


def directory_bytes(file: BinaryIO, file_size_bytes: int) -> int | None:
    """Read the length of the directory from the end of a zip file, which a comment may follow; None if it has none."""
    tail_bytes = min(file_size_bytes, _LONGEST_COMMENT + _END.size + _LOCATOR64_BYTES + _END64.size)
    file.seek(file_size_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        return None
    size = int(_END.unpack_from(tail, place)[5])
    if size == 0xFFFFFFFF:
        place -= _LOCATOR64_BYTES + _END64.size
        if place < 0 or tail[place : place + 4] != b"PK\x06\x06":
            return None
        size = int(_END64.unpack_from(tail, place)[8])
    return size

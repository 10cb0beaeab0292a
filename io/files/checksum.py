"""Computing and checking the checksums that manifests hold: XXH3-64 in hexadecimal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import xxhash

from dovetail.io.files.kinds import unlike_a_file
from dovetail.io.files.smallfile import without_waiting

READ_BYTES: Final = 4 * 2**20
"""Bytes read at a time, so that no size in a manifest decides how much memory the check takes."""

CHANGED: Final = "has changed"
"""The result of `check_start` for a file with another size or checksum."""


def array_checksum(data: memoryview) -> int:
    """Compute the XXH3-64 of much memory, while other threads run: a call for all at once would let none run."""
    digest = xxhash.xxh3_64()
    digest.update(data)
    return digest.intdigest()


def hex_checksum(data: bytes) -> str:
    """Compute the XXH3-64 of some bytes, in the manifest's hexadecimal."""
    return f"{xxhash.xxh3_64_intdigest(data):016x}"


def check_start(path: Path, size_bytes: int, checked_bytes: int, checksum: str) -> tuple[str, int]:
    """Check a file's size and the checksum of its first bytes.

    Parameters
    ----------
    path
        The file.
    size_bytes
        Size that the file must have.
    checked_bytes
        Number of bytes, from the start of the file, to check.
    checksum
        XXH3-64 of these bytes, in hexadecimal.

    Returns
    -------
    str
        What is wrong with the file, worded to follow its name in a sentence; empty if nothing is wrong.
    int
        Bytes read.

    """
    digest, left = xxhash.xxh3_64(), checked_bytes
    if fault := unlike_a_file(path):
        return fault, 0
    try:
        with open(path, "rb", opener=without_waiting) as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                return CHANGED, 0
            while left > 0 and (data := file.read(min(left, READ_BYTES))):
                digest.update(data)
                left -= len(data)
    except OSError as error:
        return f"cannot be read ({error.strerror})", 0
    return "" if (left, digest.hexdigest()) == (0, checksum) else CHANGED, checked_bytes - left

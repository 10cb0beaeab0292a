"""Byte sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

from dovetail.io.errors import OutputFormatError

LARGEST_BYTES: Final = 2**63 - 1
"""The largest byte size that is understood."""
LEAST_WRITTEN_BYTES: Final = 2**20
"""The smallest byte size that people write as text: less is a slip, such as 5B for 5GB."""

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")


def size_bytes_of(text: str | int) -> int | None:
    """Read a byte size such as ``512MiB``, ``2GB``, ``1.5g`` or a plain number of bytes.

    ``KB MB GB TB`` are powers of 1000, ``KiB MiB GiB TiB`` powers of 1024, and single letters mean the latter.

    Returns
    -------
    int or None
        Bytes, at least 1; None if the text is no such size.

    """
    match = _SIZE.fullmatch(str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    number = float(match[1]) if match else 0.0
    size = round(number * unit) if unit and number < LARGEST_BYTES else 0
    return size if 1 <= size <= LARGEST_BYTES else None


def part_size_bytes(text: str | int) -> int:
    """Read the size of the parts of an output.

    Raises
    ------
    OutputFormatError
        It is not a positive size, or it is text and smaller than `LEAST_WRITTEN_BYTES`; a number may be smaller.

    """
    size = size_bytes_of(text)
    if size is None:
        raise OutputFormatError(f"size of shards is {text!r}", "a positive size, such as 5GB or 256MiB", "correct it")
    if isinstance(text, str) and size < LEAST_WRITTEN_BYTES:
        raise OutputFormatError(
            f"size of shards {text!r} is {size:,} bytes",
            "at least 1 MiB",
            "write the unit, as in 512MiB or 5GB, or give a number of bytes",
        )
    return size

"""Reading and writing small texts for people: byte sizes, numbers with nouns, short names."""

from __future__ import annotations

from dovetail.engine.errors import RecipeError
from dovetail.io.sizes import LARGEST_BYTES as LARGEST_BYTES
from dovetail.io.sizes import size_bytes_of


def parse_size(text: str | int) -> int:
    """Read a byte size such as ``512MiB``, ``2GB``, ``1.5g`` or a plain number of bytes.

    ``KB MB GB TB`` are powers of 1000, ``KiB MiB GiB TiB`` powers of 1024, and single letters mean the latter.

    Returns
    -------
    int
        Bytes, at least 1.

    Raises
    ------
    RecipeError
        The text is not a positive size.

    """
    size = size_bytes_of(text)
    if size is None:
        raise RecipeError(
            f"size {str(text)!r} is not understood",
            "a positive number with a unit, such as 512MiB, 2GB or 1.5g",
        )
    return size


def format_size(size_bytes: float) -> str:
    """Write a byte size with a binary unit and three or four significant digits, as in ``1.43 GiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def counted(count: int, noun: str) -> str:
    """Write a number with its noun: ``1 shard``, ``3 shards``."""
    plural = noun + ("es" if noun.endswith("ss") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def percent(share: float) -> str:
    """Write a share from 0 to 1: ``37.5%``, ``100%``; what is not quite nothing or all is never written as such."""
    if 0 < share < 0.0005:
        return "less than 0.1%"
    if 0.9995 <= share < 1:
        return "more than 99.9%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def short_name(name: str) -> str:
    """Give the last part of a path or of a hub name."""
    return name.rstrip("/").rsplit("/", 1)[-1]

"""Byte sizes are read as people write them, and other texts are refused."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.text import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5g", 3 * 2**29),
        ("4k", 4096),
        ("7", 7),
        (" 3 TiB ", 3 * 2**40),
        ("10b", 10),
        (".5m", 2**19),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    """Decimal units end in B, binary ones in iB or are single letters."""
    assert size_bytes == parse_size(text)


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1.2.3m", "5 apples", "1e9", "nan", "1PB"])
def test_other_texts_are_refused(text: str) -> None:
    """The error shows the text and gives examples."""
    with pytest.raises(RecipeError, match="is not understood; expected a positive number with a unit"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (300 * 2**20, "300 MiB")]
)
def test_sizes_are_written_with_binary_units(size_bytes: int, text: str) -> None:
    """Sizes of every magnitude are written with a binary unit and few digits."""
    assert text == format_size(size_bytes)

"""Checking the beginnings of files: each kind of difference has its words, and the bytes read are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from dovetail.io.files import checksum
from dovetail.io.files.checksum import CHANGED, array_checksum, check_start, hex_checksum

CONTENT = bytes(range(250)) * 40


def test_checksums_are_xxh3_of_64_bits() -> None:
    """The checksum is XXH3-64, sixteen hexadecimal digits with leading zeros."""
    assert array_checksum(memoryview(CONTENT)) == int(hex_checksum(CONTENT), 16)
    numbered = {number: hex_checksum(str(number).encode()) for number in range(1000)}
    assert {16} == {len(text) for text in numbered.values()}
    assert numbered == {number: xxhash.xxh3_64(str(number).encode()).hexdigest() for number in range(1000)}


@pytest.mark.parametrize("checked", [0, 1, 999, 1000, 1001, len(CONTENT)])
def test_a_beginning_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: int) -> None:
    """Only the given number of bytes is checked, in steps: a later byte may differ, an earlier one may not."""
    monkeypatch.setattr(checksum, "READ_BYTES", 1000)
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    expected = hex_checksum(CONTENT[:checked])
    assert ("", checked) == check_start(path, len(CONTENT), checked, expected)
    for position in range(0, len(CONTENT), 333):
        changed = bytearray(CONTENT)
        changed[position] ^= 128
        path.write_bytes(changed)
        found = (CHANGED if position < checked else "", checked)
        assert found == check_start(path, len(CONTENT), checked, expected)


def test_other_faults(tmp_path: Path) -> None:
    """A file of another size is not read; one shorter than the bytes to check is a fault, as none or a folder is."""
    path = tmp_path / "file"
    assert ("is missing", 0) == check_start(path, 4, 4, hex_checksum(b"abcd"))
    path.write_bytes(b"abcd")
    assert (CHANGED, 0) == check_start(path, 5, 4, hex_checksum(b"abcd"))
    assert (CHANGED, 4) == check_start(path, 4, 9, hex_checksum(b"abcd"))
    path.unlink()
    path.mkdir()
    assert ("is a folder", 0) == check_start(path, 4, 4, hex_checksum(b"abcd"))

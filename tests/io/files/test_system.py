"""The Linux calls that Python lacks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.io.files import system


def test_early_flush_reports_disk_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error found while flushing early is raised; a file system without the call is no error."""
    monkeypatch.setattr(system, "_function", lambda *_: lambda *_: -1)
    with (tmp_path / "file").open("wb") as file:
        monkeypatch.setattr(system.ctypes, "get_errno", lambda: errno.ESPIPE)
        system.start_writeback(file.fileno(), 0, 8)
        monkeypatch.setattr(system.ctypes, "get_errno", lambda: errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            system.start_writeback(file.fileno(), 0, 8)


def test_early_flush_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the call, nothing is flushed early, and that is no error."""
    monkeypatch.setattr(system, "_function", lambda *_: None)
    with (tmp_path / "file").open("wb") as file:
        system.start_writeback(file.fileno(), 0, 8)


def test_blocks_are_reserved_before_they_are_written(tmp_path: Path) -> None:
    """A large range has its blocks at once where the file system is ext4; its size and bytes stay, also those around.

    Elsewhere, and for small ranges, the file stays as it is.
    """
    size = 4 * 2**20
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"begin")
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
        before = os.fstat(file.fileno()).st_blocks
        assert not system.reserve(file.fileno(), 0, 4096)
        assert before == os.fstat(file.fileno()).st_blocks
        reserved = system.reserve(file.fileno(), 2**20, 2 * 2**20)
        assert system._is_ext4(file.fileno()) == reserved
        assert before + (4096 if reserved else 0) == os.fstat(file.fileno()).st_blocks
        file.seek(0)
        assert b"begin".ljust(size, b"\0") == file.read()


def test_reserving_fails_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a system without the call, is left to the write that follows."""
    monkeypatch.setattr(system, "_is_ext4", lambda _: True)
    with (tmp_path / "file").open("wb") as file:
        for answer in (None, lambda *_: -1):
            monkeypatch.setattr(system, "_function", lambda *_, answer=answer: answer)
            assert not system.reserve(file.fileno(), 0, 2**20)


def test_only_ext4_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other file system is asked for blocks: some would send a request to a server, or write zeros."""
    asked = []

    def function(name: str, *_: object) -> Callable[..., int]:
        asked.append(name)
        return lambda *_: 0  # it says nothing of the kind of file system

    monkeypatch.setattr(system, "_function", function)
    with (tmp_path / "file").open("wb") as file:
        assert not system.reserve(file.fileno(), 0, 2**20)
    assert ["fstatfs"] == asked

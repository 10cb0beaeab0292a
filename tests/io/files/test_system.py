"""The Linux calls that Python lacks."""

from __future__ import annotations

import errno
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

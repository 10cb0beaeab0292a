"""Following links: as Python does, but where the system cannot tell what is a link, that is an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dovetail.io.files.real_path import real_path


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """Make a folder, a link to it, a link to nothing, a link to that, and a file."""
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/inner")
    (tmp_path / "loose").symlink_to("nowhere/at/all")
    (tmp_path / "looser").symlink_to("loose")
    (tmp_path / "file").write_text("")
    return tmp_path


NAMES = [
    "real",
    "link",
    "link/new",
    "link/..",
    "link/../new",
    "new/../link",
    "new",
    "new/newer",
    "loose",
    "loose/new",
    "looser",
    "file/new",
]


@pytest.mark.parametrize("name", [*NAMES, "."])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_are_followed(links: Path, name: str, absolute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of Python's function, of absolute and of relative paths."""
    monkeypatch.chdir(links)
    path = links / name if absolute else Path(name)
    assert Path(os.path.realpath(path)) == real_path(path)


def test_a_circle(tmp_path: Path) -> None:
    """Links that lead in a circle are an error of the operating system."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        real_path(tmp_path / "a")


@pytest.mark.parametrize("name", ["link", "link/new", "loose"])
def test_what_the_system_cannot_tell(links: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever look at a part of the path fails, that is an error, where Python's function guesses."""
    lstat, calls, fails = os.lstat, [0], [0]

    def failing(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        calls[0] += 1
        if calls == fails:
            raise OSError(errno.EIO, "Input/output error", path)
        return lstat(path, *arguments, **options)

    monkeypatch.setattr(os, "lstat", failing)
    real_path(links / name)
    for fails[0] in range(1, calls[0] + 1):
        calls[0] = 0
        with pytest.raises(OSError, match="Input/output error"):
            real_path(links / name)

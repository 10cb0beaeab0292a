"""Absolute paths of what people name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dovetail.io.files.home import absolute_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``real/models/a`` and ``real/models/b``, a link ``la`` to the first, and another ``b``; go there."""
    for name in ("real/models/a", "real/models/b", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "la").symlink_to("real/models/a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_above_a_link_is_that_of_the_system(place: Path) -> None:
    """``la/../b`` is beside what the link leads to, although another ``b`` is beside the link."""
    assert place / "real/models/b" == absolute_path("la/../b")
    assert (place / "real/models") == absolute_path("la/..")
    assert os.path.samefile("la/../b", absolute_path("la/../b"))


def test_links_keep_their_names(place: Path) -> None:
    """Without a folder above one, and where that makes no difference, links are not followed."""
    assert place / "la/x" == absolute_path("./la//x")
    assert place / "la" == absolute_path("b/../la")
    (place / "here").symlink_to("b")
    assert place / "la" == absolute_path("here/../la")


def test_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading ``~`` is the home folder."""
    monkeypatch.setenv("HOME", str(place))
    assert place / "b" == absolute_path("~/b")

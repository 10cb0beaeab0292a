"""If the disk fills up, the exit code is 4 wherever it happens, and once there is room the same command continues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Family
from tests.faults.machine import Paused, SmallDisk, again, finish, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a file system of 20 MiB, of which a merge asks for 16 and a little."""
    with small_disk(tmp_path / "small") as made:
        yield made


@pytest.mark.parametrize(
    "place",
    [
        "commit:1",
        "commit:9",
        "dovetail.engine.actions.completion:write_side_files",
        "dovetail.engine.actions.completion:write_manifest",
    ],
)
def test_a_disk_that_fills_up(family: Family, disk: SmallDisk, place: str) -> None:
    """In the middle, before the side files or before the manifest: there is no OUT, and nothing is lost."""
    out = disk.folder / "out"
    with Paused(family, place, out) as merge:
        disk.fill()
        outcome = merge.go_on()
    assert 4 == outcome.code, outcome
    assert outcome.err.startswith(f"error: disk full at {disk.folder}/.out.dovetail-partial/"), outcome.err
    assert outcome.err.endswith(
        "; expected room for the whole output; free some space and run the same command again to continue\n"
    )
    assert not out.exists()
    disk.remount("size=64m")
    finish(family, out)


def test_a_disk_that_is_still_full(family: Family, disk: SmallDisk) -> None:
    """Run again before there is room, the command says how much room it needs, and loses nothing."""
    out = disk.folder / "out"
    with Paused(family, "commit:5", out) as merge:
        disk.fill()
        assert 4 == merge.go_on().code
    outcome = again(family, out)
    assert 4 == outcome.code
    assert outcome.err.startswith(f"error: disk space free at {disk.folder}/.out.dovetail-partial is 0 B; expected ")
    (disk.folder / "ballast").unlink()
    finish(family, out)

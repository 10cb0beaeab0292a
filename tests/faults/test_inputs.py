"""Inputs that are cut, changed, replaced or lost while they are read are named, and nothing read from them is used."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dovetail.io.source import Source
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.faults.machine import FailingDisk, Paused, again, failing_disk, finish


class Input:
    """A file of the fine-tune that a test damages and restores, with its time of change."""

    def __init__(self, family: Family) -> None:
        self.path = family.math / "model.safetensors"
        self.copy = family.home / "copy"
        shutil.copy2(self.path, self.copy)

    def restore(self) -> None:
        shutil.copy2(self.copy, self.path)


@pytest.fixture
def math(family: Family) -> Input:
    """Keep a copy of the fine-tune's file."""
    return Input(family)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _cut_a_little(path: Path) -> None:
    """Cut the file within its last page, where the map goes on with zeros."""
    os.truncate(path, path.stat().st_size - 100)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x11" * 70_000)


def _replace(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.write_bytes(path.with_suffix(".old").read_bytes()[:-70_000] + b"\x11" * 70_000)


def _lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        *((_halve, "commit:1"), (_halve, "commit:20"), (_cut_a_little, "commit:1"), (_cut_a_little, "commit:20")),
        *((_overwrite, "commit:1"), (_replace, "commit:20"), (_lose, "commit:1")),
    ],
)
def test_an_input_damaged_under_the_map(
    family: Family, math: Input, damage: Callable[[Path], None], place: str
) -> None:
    """The merge stops and names the file, and nothing computed from it afterwards counts as done."""
    with Paused(family, place) as merge:
        damage(math.path)
        outcome = merge.go_on()
    # Where pages vanish between the look at them and their use, the system kills the process.
    assert outcome.code in (3, -signal.SIGBUS)
    if outcome.code == 3:
        assert outcome.err.startswith(f"error: {math.path} "), outcome.err
    assert not family.out.exists()
    refused = again(family)
    assert refused.code in (3, 5)
    assert str(math.path if damage is not _lose else math.path.parent) in refused.err
    math.restore()
    finish(family)


def test_the_reason_is_told(family: Family, math: Input) -> None:
    """The error says that the file was cut short, and to which size."""
    with Paused(family, "commit:1") as merge:
        _halve(math.path)
        outcome = merge.go_on()
    if outcome.code == -signal.SIGBUS:
        pytest.skip("this system cannot look before it touches")
    assert (
        " changed while it was in use: 37868 bytes, " in outcome.err or "it was cut short to 37868 bytes" in outcome.err
    )


def test_an_input_that_cannot_be_read(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk in one chunk stops the merge with exit code 5; finished chunks are kept."""
    left = [20]

    def fail(self: Source, start: int, stop: int) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "the file")
        return True

    with monkeypatch.context() as patched:
        patched.setattr("dovetail.io.files.mapping.MappedSource.populate", fail)
        outcome = again(family)
    assert 5 == outcome.code
    assert outcome.err == (
        "error: Input/output error at the file; expected to read the inputs and write the output; correct that and run "
        "the same command again to continue\n"
    )
    finish(family)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """Mount a disk that can be made to fail."""
    with failing_disk(tmp_path / "disk") as made:
        yield made


def test_a_disk_that_fails_under_an_input(family: Family, disk: FailingDisk) -> None:
    """An error with exit code 3 names the file, without a SIGBUS; once it can be read, the merge continues."""
    folder = disk.folder / "math"
    shutil.copytree(family.math, folder)
    family.math.rename(family.home / "elsewhere")
    family.math.symlink_to(folder)
    disk.fail_inside(folder / "model.safetensors")
    outcome = again(family)
    assert 3 == outcome.code
    path = family.math / "model.safetensors"
    assert outcome.err.startswith(f"error: {path} can no longer be read at bytes "), outcome.err
    assert "(the disk fails); expected 75736 bytes of data; check that the file was not cut short" in outcome.err
    disk.mend()
    finish(family)


def test_a_disk_that_fails_under_an_output(family: Family, disk: FailingDisk) -> None:
    """Verification names the part that cannot be read, with exit code 5, and is not killed."""
    out = disk.folder / "out"
    assert 0 == dovetail("merge", family.recipe_path, out).code
    disk.fail_inside(out / "model.safetensors")
    outcome = dovetail("verify", out)
    assert 5 == outcome.code
    assert "tensor 'model.norm.weight' in model.safetensors cannot be read between elements 0 and 64" in outcome.out
    disk.mend()
    assert 0 == dovetail("verify", out).code

"""Processes that pause where a fault is to happen, and small file systems that can be filled, damaged and closed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.checkpoints import folder_bytes
from tests.engine.command import Outcome, dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import expected_files
from tests.faults.forked import ForkedCommand


def options(family: Family, out: Path | None = None, *more: str) -> list[str]:
    """Give the arguments of a merge that runs its tasks one after another."""
    return ["merge", str(family.recipe_path), str(out or family.out), "--shard-size", "20000", "--workers", "1", *more]


@dataclass
class Paused:
    """A merge in a forked process that waits while the test makes a fault."""

    family: Family
    """What is merged."""
    place: str = "commit:5"
    """Where it waits: see `tests.faults.paused`; empty for nowhere."""
    out: Path | None = None
    """Output folder, if not the family's."""
    more: tuple[str, ...] = ()
    """Further options of the command."""
    as_ordinary_user: bool = False
    """Whether the process may do no more to files than their owner."""
    process: ForkedCommand = field(init=False)
    """The process."""

    def __enter__(self) -> Paused:
        arguments = options(self.family, self.out, *self.more)
        self.process = ForkedCommand(self.place, arguments, as_ordinary_user=self.as_ordinary_user)
        if self.place and not any(line == "paused\n" for line in self.process.stdout):
            raise AssertionError(f"the merge ended by itself: {self.go_on()}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.end()

    def go_on(self) -> Outcome:
        """Let the process go on, and wait for its end."""
        return self.process.end("\n")


def again(family: Family, out: Path | None = None) -> Outcome:
    """Run the same merge to its end, in this process."""
    return dovetail(*options(family, out, "--json"))


def finish(family: Family, out: Path | None = None) -> Outcome:
    """Run the same merge to its end, and check that it continued and that its files are the expected ones."""
    outcome = again(family, out)
    assert (0, "") == (outcome.code, outcome.err)
    assert outcome.events[0]["text"].startswith("Continuing an unfinished merge: ")
    assert expected_files(family) == folder_bytes(out or family.out)
    return outcome


def _mount(*arguments: str | Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the administrator can mount a small file system")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no small file system: {done.stderr.strip()}")


@contextlib.contextmanager
def _mounted(folder: Path, *arguments: str | Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    _mount(*arguments, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@dataclass(frozen=True)
class SmallDisk:
    """A file system in memory, of a given size."""

    folder: Path
    """Where it is mounted."""

    def fill(self) -> None:
        """Fill the disk to the last byte."""
        with (self.folder / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert 0 == shutil.disk_usage(self.folder).free

    def remount(self, option: str) -> None:
        """Change the options of the mounted file system, such as ``size=64m`` or ``ro``."""
        _mount("-o", f"remount,{option}", self.folder)


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "20m") -> Iterator[SmallDisk]:
    """Mount a small file system, or skip the test if that is not possible."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield SmallDisk(folder)


@dataclass(frozen=True)
class FailingDisk:
    """A file system on an image that can lose its end, so that reading there is an error of the disk."""

    folder: Path
    """Where it is mounted."""
    image: Path
    """The image."""

    def fail_inside(self, path: Path) -> None:
        """Make reading fail from the middle of a file on."""
        os.sync()
        extents = subprocess.run(["filefrag", "-v", path], capture_output=True, text=True, check=True).stdout
        found = re.search(r"^\s*0:\s*0\.\.\s*(\d+):\s*(\d+)\.\.", extents, re.MULTILINE)
        assert found, extents
        last, first_block = int(found[1]), int(found[2])
        shutil.copyfile(self.image, self.image.with_suffix(".whole"))
        os.truncate(self.image, (first_block + last // 2) * 4096)
        self._forget()

    def mend(self) -> None:
        """Restore the end of the image."""
        with self.image.open("r+b") as image, self.image.with_suffix(".whole").open("rb") as whole:
            shutil.copyfileobj(whole, image)
        self._forget()

    def _forget(self) -> None:
        """Make the system drop what it has cached of the disk."""
        for path in self.folder.rglob("*.safetensors"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def failing_disk(folder: Path) -> Iterator[FailingDisk]:
    """Make and mount a disk of 8 MiB in an image, or skip the test if that is not possible."""
    if not shutil.which("mkfs.ext4") or not shutil.which("filefrag"):
        pytest.skip("this machine has no tools for ext4")
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", image], check=True)
    with _mounted(folder, "-o", "loop", image):
        yield FailingDisk(folder, image)

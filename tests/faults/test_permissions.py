"""Files and folders that may not be read or written are named, with the right exit code, and nothing is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import folder_bytes
from tests.engine.command import Outcome, snapshot
from tests.engine.conftest import Family
from tests.engine.interrupt import expected_files
from tests.faults.machine import Paused, again, finish, small_disk


def ordinary(family: Family) -> Outcome:
    """Run the merge in another process, as a user without the rights of root."""
    with Paused(family, "", as_ordinary_user=os.geteuid() == 0) as merge:
        return merge.go_on()


@pytest.fixture(autouse=True)
def _opened_again(tmp_path: Path) -> Iterator[None]:
    """Give back all permissions after the test, so that its folder can be removed."""
    yield
    for path in (tmp_path, *(Path(folder) for folder, _, _ in os.walk(tmp_path))):
        path.chmod(0o755)


@dataclass(frozen=True)
class Closed:
    """A file or folder that may not be used."""

    id: str
    """What it is."""
    path: Callable[[Family], Path]
    """Gives it."""
    mode: int
    """What it may still be used for."""
    code: int
    """Exit code."""
    text: str
    """How the error begins; ``{path}`` is the thing and ``{home}`` the folder of everything."""


CLOSED = (
    Closed("recipe", lambda family: family.recipe_path, 0, 2, "recipe '{path}' cannot be read: Permission denied"),
    Closed("weights", lambda family: family.math / "model.safetensors", 0, 3, "cannot open {path} (Permission denied)"),
    Closed(
        "index",
        lambda family: family.code / "model.safetensors.index.json",
        0,
        3,
        "cannot open {path} (Permission denied); expected a shard index",
    ),
    Closed("configuration", lambda family: family.base / "config.json", 0, 3, "{path}: Permission denied; expected "),
    Closed("checkpoint", lambda family: family.math, 0, 3, "cannot read {path} (Permission denied); expected "),
    Closed(
        "place of the output", lambda family: family.home, 0o555, 5, "Permission denied at {home}/.out.dovetail-par"
    ),
)


@pytest.mark.parametrize("closed", CLOSED, ids=lambda closed: closed.id)
def test_what_may_not_be_used_is_named(family: Family, closed: Closed) -> None:
    """The error names the file or folder, and nothing is made; with permission, the same command works."""
    path = closed.path(family)
    mode = path.stat().st_mode
    before = snapshot(family.home)
    path.chmod(closed.mode)
    outcome = ordinary(family)
    path.chmod(mode)
    assert outcome.err.startswith("error: " + closed.text.format(path=path, home=family.home)), outcome.err
    assert (closed.code, "") == (outcome.code, outcome.out)
    assert before == snapshot(family.home)
    assert 0 == again(family).code


def test_a_side_file_that_may_not_be_read(family: Family) -> None:
    """A side file is read at the very end: all chunks are kept, and the same command computes nothing again."""
    path = family.base / "tokenizer.json"
    path.chmod(0)
    outcome = ordinary(family)
    path.chmod(0o644)
    assert 3 == outcome.code
    text = f"error: cannot read {path} (Permission denied); expected readable files"
    assert outcome.err.startswith(text), outcome.err
    assert not family.out.exists()
    assert 0 == finish(family).events[-1]["written_bytes"]


def test_an_unfinished_output_that_may_not_be_written(family: Family) -> None:
    """A working folder that may no longer be written is named in the error, and kept."""
    with Paused(family, "commit:5") as merge:
        merge.process.kill()
    path = family.staging / "dovetail_journal"
    path.chmod(0o444)
    before = folder_bytes(family.staging)
    outcome = ordinary(family)
    path.chmod(0o644)
    assert 5 == outcome.code
    assert outcome.err.endswith(
        f"error: Permission denied at {path}; expected to read the inputs and write the output; correct that and run "
        "the same command again to continue\n"
    )
    assert before == folder_bytes(family.staging)
    finish(family)


def test_a_read_only_file_system(family: Family) -> None:
    """A file system that is or becomes read-only is named, with exit code 5, and nothing is lost."""
    with small_disk(family.home / "small") as disk:
        out = disk.folder / "out"
        with Paused(family, "commit:5", out) as merge:
            merge.process.kill()
        disk.remount("ro")
        with Paused(family, "", out) as merge:
            outcome = merge.go_on()
        assert 5 == outcome.code
        assert f"Read-only file system at {disk.folder}/.out.dovetail-partial/" in outcome.err
        disk.remount("rw")
        finish(family, out)


def test_inputs_on_a_read_only_file_system(family: Family) -> None:
    """Inputs may lie on a read-only file system, because they are never written to."""
    expected = expected_files(family)
    with small_disk(family.home / "small") as disk:
        shutil.copytree(family.math, disk.folder / "math")
        shutil.rmtree(family.math)
        family.math.symlink_to(disk.folder / "math")
        disk.remount("ro")
        with Paused(family, "") as merge:
            assert 0 == merge.go_on().code
    # Copying changed the file's times, which are not in the output.
    assert expected == folder_bytes(family.out)

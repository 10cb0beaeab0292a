"""Outputs that would destroy something or do not fit: the whole text, the exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from dovetail.engine.actions.merge import merge
from dovetail.engine.run import prepare
from tests.checkpoints import cabs_recipe
from tests.engine.command import dovetail, dovetail_process, snapshot
from tests.engine.conftest import Family

APART = "expected a folder apart from every input; choose another output folder"


@dataclass(frozen=True)
class BadTarget:
    """One output that is refused."""

    id: str
    """What is wrong with it."""
    target: Callable[[Family], Path]
    """Gives the output, having made what has to be there."""
    text: str
    """The whole error; ``{home}`` is the family's folder and ``{out}`` the output."""
    options: tuple[str, ...] = ()
    """Options of the command."""


def _not_empty(family: Family) -> Path:
    family.out.mkdir()
    (family.out / "thesis.txt").write_text("the only copy")
    return family.out


def _file(family: Family) -> Path:
    family.out.write_text("the only copy")
    return family.out


def _link_to_an_input(family: Family) -> Path:
    family.out.symlink_to(family.math)
    return family.out


def _under_a_link(family: Family) -> Path:
    (family.home / "link").symlink_to(family.math)
    return family.home / "link" / "merged"


def _blobs(family: Family) -> Path:
    """Turn the fine-tune into a snapshot of a hub cache, and choose its folder of blobs as the output."""
    cache = family.home / "cache"
    (cache / "blobs").mkdir(parents=True)
    shutil.move(family.math / "model.safetensors", cache / "blobs" / "abc")
    shutil.copytree(family.math, cache / "snapshots" / "main")
    (cache / "snapshots" / "main" / "model.safetensors").symlink_to("../../blobs/abc")
    cabs_recipe(family.recipe_path, family.base, [cache / "snapshots" / "main", family.code])
    return cache / "blobs"


def _on_top_of(name: str) -> Callable[[Family], Path]:
    """Move the base model into the folder that the merge would use as its working folder."""

    def target(family: Family) -> Path:
        family.base.rename(family.home / name)
        cabs_recipe(family.recipe_path, family.home / name, [family.math, family.code])
        return family.out

    return target


TARGETS = (
    BadTarget(
        "not empty",
        _not_empty,
        "output folder {out} is not empty; expected a new or empty folder; choose another, or pass --overwrite to "
        "replace it",
    ),
    BadTarget("a file", _file, "output {out} is a file; expected a folder; choose another name"),
    BadTarget("a file", _file, "output {out} is a file; expected a folder; choose another name", ("--overwrite",)),
    BadTarget(
        "an input",
        lambda family: family.math,
        f"output folder {{out}} holds, is or lies inside the input {{home}}/math; {APART}",
        ("--overwrite",),
    ),
    BadTarget(
        "inside an input",
        lambda family: family.base / "merged",
        f"output folder {{out}} holds, is or lies inside the input {{home}}/base; {APART}",
    ),
    BadTarget(
        "deep inside an input",
        lambda family: family.code / "a" / "b",
        f"output folder {{out}} holds, is or lies inside the input {{home}}/code; {APART}",
    ),
    BadTarget(
        "contains everything",
        lambda family: family.home,
        f"output folder {{out}} holds, is or lies inside the input {{home}}/recipe.yml; {APART}",
        ("--overwrite",),
    ),
    BadTarget(
        "an input by another name",
        lambda family: family.home / "code" / ".." / "math",
        f"output folder {{out}} holds, is or lies inside the input {{home}}/math; {APART}",
        ("--overwrite",),
    ),
    BadTarget(
        "a link to an input",
        _link_to_an_input,
        f"output folder {{out}} holds, is or lies inside the input {{home}}/math; {APART}",
        ("--overwrite",),
    ),
    BadTarget(
        "inside an input by a link",
        _under_a_link,
        f"output folder {{out}} holds, is or lies inside the input {{home}}/math; {APART}",
    ),
    BadTarget(
        "the blobs of a hub cache",
        _blobs,
        f"output folder {{out}} holds, is or lies inside the input {{home}}/cache/snapshots/main/model.safetensors; "
        f"{APART}",
        ("--overwrite",),
    ),
    BadTarget(
        "an input is the staging folder",
        _on_top_of(".out.dovetail-partial"),
        "working folder {home}/.out.dovetail-partial holds, is or lies inside the input "
        f"{{home}}/.out.dovetail-partial; {APART}",
    ),
    BadTarget(
        "an input is the folder of replaced outputs",
        _on_top_of(".out.dovetail-old"),
        f"working folder {{home}}/.out.dovetail-old holds, is or lies inside the input {{home}}/.out.dovetail-old; "
        f"{APART}",
        ("--overwrite",),
    ),
)


@pytest.mark.parametrize("bad", TARGETS, ids=lambda bad: bad.id)
def test_a_target_that_would_destroy_something_is_refused(family: Family, bad: BadTarget) -> None:
    """The exit code is 5 and every file and folder is as it was."""
    out = bad.target(family)
    before = snapshot(family.home)
    outcome = dovetail("merge", family.recipe_path, out, *bad.options)
    assert f"error: {bad.text.format(home=family.home, out=out)}\n" == outcome.err
    assert (5, "") == (outcome.code, outcome.out)
    assert before == snapshot(family.home)


def test_the_current_folder_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that is the current folder is refused, because it would be replaced."""
    folder = family.home / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    outcome = dovetail("merge", family.recipe_path, ".")
    assert (
        5,
        "error: output folder . is or contains the current or home folder; expected a folder apart from both; choose "
        "another output folder\n",
    ) == (outcome.code, outcome.err)
    assert folder.is_dir()


def test_a_mount_point_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point cannot be renamed over, so it is refused before the work, not after."""
    family.out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == family.out)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (
        5,
        f"error: output folder {family.out} is a mount point; expected a folder that can be replaced when the merge "
        f"is complete; choose a folder inside it, such as {family.out}/merged\n",
    ) == (outcome.code, outcome.err)


def test_a_path_through_a_file(family: Family) -> None:
    """An error of the operating system about the output is shown with the path; the exit code is 5."""
    outcome = dovetail("merge", family.recipe_path, family.recipe_path / "out")
    assert (5, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith(f"error: Not a directory at {family.recipe_path}/.out.dovetail-partial; expected ")


def test_an_empty_folder_is_taken(family: Family) -> None:
    """An output folder that exists and is empty is filled as one that does not exist."""
    family.out.mkdir()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    assert (family.out / "model.safetensors").is_file()


def test_a_link_stays_a_link(family: Family) -> None:
    """If the output is a link, the folder that it leads to is made, filled or replaced, and the link stays."""
    elsewhere = family.home / "disk2" / "merged"
    elsewhere.parent.mkdir()
    family.out.symlink_to(elsewhere)
    for options in ((), ("--overwrite",)):
        assert 0 == dovetail("merge", family.recipe_path, family.out, *options).code
        assert family.out.is_symlink()
        assert (elsewhere / "model.safetensors").is_file()
    assert ["merged"] == os.listdir(elsewhere.parent)


def test_overwriting_replaces_the_whole_folder(family: Family) -> None:
    """With --overwrite nothing of the old output remains, and nothing else is left beside the new one."""
    _not_empty(family)
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--overwrite").code
    assert "thesis.txt" not in os.listdir(family.out)
    assert ["base", "code", "math", "out", "recipe.yml"] == sorted(os.listdir(family.home))


def test_a_failed_overwriting_loses_nothing(family: Family) -> None:
    """If the new merge fails, the old output is unchanged."""
    _not_empty(family)
    (family.math / "model.safetensors").write_bytes(b"")
    before = snapshot(family.home)
    assert 3 == dovetail("merge", family.recipe_path, family.out, "--overwrite").code
    assert before == snapshot(family.home)


def test_files_that_come_while_the_merge_runs_are_not_lost(family: Family) -> None:
    """An output folder that is filled during the merge is not replaced; once it is empty, the same command ends."""

    def listen(event: object) -> None:
        if type(event).__name__ == "Committed":
            _not_empty(family)

    with pytest.raises(OSError, match="files have come into the output folder") as caught:
        merge(family.recipe_path, family.out, listen=listen)
    assert (
        f"files have come into the output folder {family.out} while it was being made; expected an empty folder; move "
        "them away and run the same command again: nothing is computed twice"
    ) == str(caught.value)
    assert {"thesis.txt": "the only copy"} == {path.name: path.read_text() for path in family.out.iterdir()}
    (family.out / "thesis.txt").unlink()
    outcome = dovetail("merge", family.recipe_path, family.out, "--json")
    assert (0, 0) == (outcome.code, outcome.events[-1]["written_bytes"])


def test_an_input_that_changes_while_it_is_read_is_noticed(family: Family) -> None:
    """A mixture of two versions of a checkpoint is never published."""

    def listen(event: object) -> None:
        if type(event).__name__ == "Committed":
            os.utime(family.math / "model.safetensors", ns=(1, 1))

    with pytest.raises(
        ValueError, match=r"model\.safetensors changed while it was in use: 75736 bytes, modified at 1 ns"
    ):
        merge(family.recipe_path, family.out, listen=listen)
    assert not family.out.exists()


def test_a_full_disk_is_noticed_beforehand(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives the room that is free and the room needed, the exit code is 4, and nothing is made."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    before = snapshot(family.home)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (
        f"error: disk space free at {family.home} is 5 MiB; expected at least 16.1 MiB for the output; free some "
        "space, or choose an output folder on another disk\n"
    ) == outcome.err
    assert (4, "") == (outcome.code, outcome.out)
    assert before == snapshot(family.home)


def test_a_disk_that_fills_up(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running out of space on the way has exit code 4, leaves no output, and the same command continues."""

    def full(self: object, offset_bytes: int, data: object) -> None:
        raise OSError(28, "No space left on device", str(family.staging / "model.safetensors"))

    with monkeypatch.context() as patched:
        patched.setattr("dovetail.io.files.outfile.OutFile.write", full)
        outcome = dovetail("merge", family.recipe_path, family.out)
    assert (
        4,
        f"error: disk full at {family.staging}/model.safetensors; expected room for the whole output; free some space "
        "and run the same command again to continue\n",
    ) == (outcome.code, outcome.err)
    assert not family.out.exists()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


@pytest.mark.parametrize("command", ["merge", "plan"])
def test_too_little_memory_names_a_limit_that_does(family: Family, command: str) -> None:
    """The exit code is 4, nothing is made, and the command works with the limit that the error names."""
    arguments = [command, family.recipe_path, *([family.out] if command == "merge" else [])]
    before = snapshot(family.home)
    outcome = dovetail_process(*arguments, "--memory", "50MiB")
    found = re.fullmatch(
        r"error: memory limit 50 MiB is too small for this work; expected at least (\d+) MiB \([\d.]+ MiB for the "
        r"program, [\d.]+ MiB for one task\); pass --memory (\d+)MiB or more\n",
        outcome.err,
    )
    assert found, outcome.err
    assert found[1] == found[2]
    assert (4, "") == (outcome.code, outcome.out)
    assert before == snapshot(family.home)
    assert 0 == dovetail_process(*arguments, "--memory", f"{found[2]}MiB").code


def test_any_number_of_workers_is_fitted_at_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absurd number of workers is reduced to what fits in one step, without counting down."""
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 150 * 2**20)
    outcome = dovetail("plan", family.recipe_path, "--workers", "1000000000000", "--memory", "200MiB", "--json")
    plan = json.loads(outcome.out)
    assert plan["projected_bytes"] <= 200 * 2**20 < plan["projected_bytes"] + plan["task_bytes"] + 2 * 2**20

"""A finished output asked for again: there is nothing to do, at whatever instant its run was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import RunOptions, events, merge
from dovetail.engine.output import staging
from tests.engine.command import dovetail, snapshot
from tests.engine.conftest import Family
from tests.engine.outputs import KINDS, Killed, Kind, Make, contents, empty, merged, staged, unreadable

SHARD = "model.safetensors"

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)


@every_kind
def test_the_same_three_times(family: Family, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and the third call read no tensor, change nothing, and give the manifest of the first."""
    make = kind.make(family)
    first = make()
    for folder in (family.base, family.math, family.code):
        empty(folder)
    unreadable(monkeypatch)
    before = snapshot(family.home)
    for _ in range(2):
        heard: list[events.Event] = []
        assert json.loads(json.dumps(first)) == json.loads(json.dumps(make(listen=heard.append)))
        assert [f"{family.out} is this {kind.noun} already, verified by its plan; nothing to do."] == [
            event.text for event in heard if isinstance(event, events.Notice)
        ]
        done = heard[-1]
        assert isinstance(done, events.Done)
        assert (True, 0, 0) == (done.already, done.read_bytes, done.written_bytes)
    assert before == snapshot(family.home)


@every_kind
def test_overwriting_makes_it_again(family: Family, kind: Kind) -> None:
    """With `overwrite` the same output is computed again."""
    make = kind.make(family)
    make()
    before, heard = contents(family.out), []
    make(RunOptions(overwrite=True), heard.append)
    assert [False] == [event.already for event in heard if isinstance(event, events.Done)][-1:]
    assert any(isinstance(event, events.Started) for event in heard)
    assert before == contents(family.out)


LEFT = {"_tidy": "dovetail_journal", "the journal": "dovetail_journal", "the lock": "dovetail_lock"}
"""For each instant of a kill, the file that is the first to be left."""
every_instant = pytest.mark.parametrize("instant", [*LEFT, "the end"])


@every_instant
@every_kind
def test_killed_after_the_last_renaming(
    family: Family, kind: Kind, instant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left of the run, the same command ends well, reads no tensor, and cleans up."""
    make = kind.make(family)
    _killed(make, RunOptions(), instant, family, monkeypatch)
    make()
    _is_tidy(family)


@every_instant
def test_killed_after_an_output_was_replaced(family: Family, instant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds where another output was replaced; --overwrite again ends what is left as long as that is all."""
    make, run = merged(family), RunOptions(overwrite=True)
    family.out.mkdir()
    (family.out / "old").write_text("old")
    _killed(make, run, instant, family, monkeypatch)
    make(run if LEFT.get(instant) == "dovetail_journal" else RunOptions())
    _is_tidy(family)


def _killed(make: Make, run: RunOptions, instant: str, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the output up to an instant at which the run is killed; no tensor can be read after that."""
    with monkeypatch.context() as patched:
        _kill_at(instant, family, patched)
        with pytest.raises(Killed):
            make(run)
    assert (instant in LEFT) == ("dovetail_lock" in os.listdir(family.out))
    unreadable(monkeypatch)


def _is_tidy(family: Family) -> None:
    assert not {"dovetail_journal", "dovetail_lock", "old"} & set(os.listdir(family.out))
    assert [] == [path.name for path in family.home.iterdir() if path.name.startswith(".")]


def _kill_at(instant: str, family: Family, patched: pytest.MonkeyPatch) -> None:
    """Kill the run when the output has its name: before it tidies up, before a file is removed, or when all is done."""
    tidy, unlink = staging._tidy, Path.unlink

    def ours(place: Path) -> bool:
        return place == family.out

    def tidy_or_die(place: Path, old: Path) -> None:
        if instant == "_tidy" and ours(place):
            raise Killed
        tidy(place, old)
        if instant == "the end" and ours(place):
            raise Killed

    def unlink_or_die(path: Path, missing_ok: bool = False) -> None:
        if ours(path.parent) and path.name == {"the journal": "dovetail_journal", "the lock": "dovetail_lock"}.get(
            instant
        ):
            raise Killed
        unlink(path, missing_ok)

    patched.setattr(staging, "_tidy", tidy_or_die)
    patched.setattr(Path, "unlink", unlink_or_die)


def test_a_run_that_is_about_to_tidy_up_is_left_to_it(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the output's lock, its journal stays: that process will remove it."""
    with monkeypatch.context() as patched:
        _kill_at("_tidy", family, patched)
        with pytest.raises(Killed):
            merge(family.recipe_path, family.out)
    with (family.out / "dovetail_lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert 0 == dovetail("merge", family.recipe_path, family.out).code
        assert (family.out / "dovetail_journal").exists()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    assert not (family.out / "dovetail_journal").exists()


def test_an_output_that_another_process_makes_meanwhile(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes were asked for at once is computed by one: the other sees it when it may begin."""
    from dovetail.engine.actions import carry_out

    prepare = carry_out.prepare

    def be_late(*arguments: Any) -> Any:
        monkeypatch.setattr(carry_out, "prepare", prepare)
        merge(family.recipe_path, family.out)
        return prepare(*arguments)

    monkeypatch.setattr(carry_out, "prepare", be_late)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (5, True) == (outcome.code, outcome.err.startswith(f"error: output folder {family.out} is not empty; "))
    assert not family.staging.exists()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def test_stages_that_are_kept_are_made_again(family: Family) -> None:
    """Where --stages asks for results that are gone, they are made again, and the output stays."""
    make, kept = staged(family), family.home / "kept"
    make()
    before = snapshot(family.out)
    for _ in range(2):
        assert 0 == dovetail("merge", family.recipe_path, family.out, "--stages", kept).code
        assert ["again", "mean"] == sorted(path.name for path in kept.iterdir())
    assert before == snapshot(family.out)


@pytest.mark.parametrize("instant", ["before", "renamed", "half removed"])
def test_killed_while_the_stages_are_removed(family: Family, instant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of the stages when the output is complete, the same command removes it."""
    make, folder = staged(family), family.home / ".out.dovetail-stages"

    def remove_and_die(path: Path) -> None:
        assert path == family.home / ".out.dovetail-stages-removed"
        if instant == "half removed":
            (path / "mean" / SHARD).unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", remove_and_die)
        if instant == "before":
            patched.setattr("dovetail.engine.actions.merge_stages.discard", _die)
        with pytest.raises(Killed):
            make()
    assert (instant == "before") == folder.is_dir()
    unreadable(monkeypatch)
    make()
    _is_tidy(family)


@every_kind
def test_what_cannot_be_removed_at_the_end(family: Family, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be removed from a complete output is an error that names it; the same command removes it."""
    make, unlink = kind.make(family), Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == family.out / "dovetail_lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="dovetail_lock"):
                make()
    unreadable(monkeypatch)
    make()
    _is_tidy(family)


def test_a_record_of_the_inputs_that_cannot_be_read(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails does not make the output another one: the error names the file, and the output stays."""
    make, opened = merged(family), os.open
    make()

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(family.out / "dovetail_inputs.json"):
            raise OSError(errno.EIO, "Input/output error", path)
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        outcome = dovetail("merge", family.recipe_path, family.out)
    assert (5, f"error: Input/output error at {family.out}/dovetail_inputs.json") == (
        outcome.code,
        outcome.err.partition(";")[0],
    )
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def test_an_input_that_cannot_be_read(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a finished output is compared with its inputs, an input that cannot be read is no damage of the output."""
    make, opened = merged(family), os.open
    make()

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if os.fspath(path) == str(family.base / "tokenizer.json"):
            raise OSError(errno.EIO, "Input/output error", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert 3 == outcome.code, outcome.err
    assert f"error: cannot read {family.base}/tokenizer.json (Input/output error)" in outcome.err


def _die(*_: object) -> None:
    raise Killed


def test_a_stages_folder_of_another_merge_stays(family: Family) -> None:
    """What an interrupted --overwrite of another recipe has made is kept by a command that has nothing to do."""
    make = staged(family)
    make()
    text = family.recipe_path.read_text()
    family.recipe_path.write_text(text.replace("weight: 1", "weight: 2"))

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Done):
            raise Killed

    with pytest.raises(Killed):
        make(RunOptions(overwrite=True), stop)
    family.recipe_path.write_text(text)
    make()
    assert (family.home / ".out.dovetail-stages" / "mean" / SHARD).exists()

"""An interrupted merge leaves nothing that looks finished, and the same command gives the same bytes in the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import events
from dovetail.engine.actions import completion
from dovetail.engine.actions.merge import merge
from dovetail.engine.errors import InterruptedMergeError, OutputError
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import MATHS_VERSION
from dovetail.engine.run.journal import Journal
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.records import RecordTable
from dovetail.io.formats.safetensors_sink import SafetensorsSink
from tests.checkpoints import folder_bytes
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import (
    ENTRY_BYTES,
    OPTIONS,
    Interrupter,
    commit_often,
    expected_files,
    interrupt,
    journal_rows,
)


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def test_an_interrupted_merge_continues(family: Family) -> None:
    """After Ctrl-C there is no OUT; the same call does only the rest, and gives the same files."""
    error = interrupt(family)
    assert not family.out.exists()
    rows = journal_rows(family)
    assert rows >= 5
    total = sum(-(-size // 1000) for size in (6208, 6208, 4096, 4096, 8320, 8320, 64, 64, 64))
    assert 130 == error.exit_code
    assert (
        f"merge interrupted; {rows / total:.1%} of its chunks are safe in {family.staging}; run the same command "
        "again to continue"
    ) == str(error)
    seen: list[events.Event] = []
    manifest = merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2), seen.append)
    assert expected_files(family) == folder_bytes(family.out)
    assert not family.staging.exists()
    (notice,) = (event.text for event in seen if isinstance(event, events.Notice))
    assert f"Continuing an unfinished merge: {rows / total:.1%} of its chunks are done." == notice
    (done,) = (event for event in seen if isinstance(event, events.Done))
    assert 0 < done.written_bytes < 74_880
    assert manifest["totals"] == done.summary


@pytest.mark.parametrize("commits", [1, 2, 20, 40])
def test_a_merge_interrupted_again_and_again(family: Family, commits: int) -> None:
    """However often a merge is interrupted, it makes progress, and ends with the same files."""
    for _ in range(3):
        try:
            merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2), Interrupter(commits))
        except InterruptedMergeError:
            assert not family.out.exists()
            continue
        break
    if not family.out.exists():
        merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


@pytest.mark.parametrize("parameters", [{"balanced": False}, {"balanced": False, "overlap": "minimize"}], ids=str)
def test_a_merge_with_reduce_passes_continues(family: Family, parameters: dict[str, Any]) -> None:
    """If some chunks of a tensor are done, its reduce passes are still run over all of its chunks."""
    family.recipe(parameters={"n": 4, "m": 16, "weight": 0.8, **parameters})
    interrupt(family)
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_an_interruption_before_anything_is_done(family: Family) -> None:
    """A merge that was stopped at its start begins anew, without an error."""

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError):
        merge(family.recipe_path, family.out, OPTIONS, listen=stop)
    merge(family.recipe_path, family.out, OPTIONS)
    assert expected_files(family) == folder_bytes(family.out)


def test_an_interruption_when_all_is_done(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a merge is stopped while it writes the side files, the same call writes them and computes nothing again."""
    with monkeypatch.context() as patched:
        patched.setattr(completion, "write_side_files", _raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            merge(family.recipe_path, family.out, OPTIONS)
    assert not family.out.exists()
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    assert 0 == next(event.written_bytes for event in seen if isinstance(event, events.Done))
    assert expected_files(family) == folder_bytes(family.out)


def _raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[:-1], -1),
        (lambda content: content[: -ENTRY_BYTES - 50], -2),
        (lambda content: content + b"\0" * 1000, 0),
        (lambda content: content[:-ENTRY_BYTES] + bytes([content[-ENTRY_BYTES] ^ 1]) + content[1 - ENTRY_BYTES :], -1),
        (lambda content: content[: content.index(b"\n") + 1], None),
        (lambda content: content[:20], None),
        (lambda content: b"", None),
    ],
    ids=["last byte torn", "two torn", "zeros behind", "bit flipped", "no entries", "torn in the line", "empty"],
)
def test_a_damaged_journal(family: Family, damage: Callable[[bytes], bytes], left: int | None) -> None:
    """Entries before the damage are used, the chunks of later ones are computed again, and the files are the same."""
    interrupt(family, 6)
    rows = journal_rows(family)
    path = family.staging / "dovetail_journal"
    path.write_bytes(damage(path.read_bytes()))
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    (begun,) = (event for event in seen if isinstance(event, events.Started))
    notices = [event.text for event in seen if isinstance(event, events.Notice)]
    if left is None:
        assert [] == notices
    else:
        assert [f"Continuing an unfinished merge: {(rows + left) / begun.tasks:.1%} of its chunks are done."] == notices
    assert expected_files(family) == folder_bytes(family.out)


def _other_recipe(family: Family) -> None:
    family.recipe(parameters={"n": 5, "m": 16, "weight": 0.8})


def _other_input(family: Family) -> None:
    os.utime(family.math / "model.safetensors", ns=(10**18, 10**18))


def _other_format(family: Family) -> None:
    path = family.staging / "dovetail_journal"
    path.write_bytes(b"{}\n" + path.read_bytes().partition(b"\n")[2])


def _other_version(family: Family) -> None:
    path = family.staging / "dovetail_journal"
    line, newline, body = path.read_bytes().partition(b"\n")
    stated = f'"maths_version": {MATHS_VERSION}'.encode()
    assert stated in line
    line = line.replace(stated, b'"maths_version": 0').replace(b'"plan_hash": "', b'"plan_hash": "0')
    path.write_bytes(line + newline + body)


def _nothing(family: Family) -> None:
    """Change nothing, so that only the options of the call differ."""


@pytest.mark.parametrize(
    ("change", "arguments", "reason"),
    [
        (_other_recipe, (), "the recipe is not the same"),
        (_nothing, ("--dtype", "float32"), "the options are not the same"),
        (_nothing, ("--seed", "1"), "the options are not the same"),
        (_nothing, ("--nonfinite", "keep"), "the options are not the same"),
        (_nothing, ("--shard-size", "30000"), "the options are not the same"),
        (_other_input, (), "the input {math}/model.safetensors has changed since"),
        (_other_format, (), "the journal is damaged"),
        (_other_version, (), "it was begun by another version of Dovetail, which gives results with other bits"),
    ],
)
def test_another_merge_does_not_continue_it(
    family: Family, change: Callable[[Family], None], arguments: tuple[str, ...], reason: str
) -> None:
    """The error says what has changed, finished chunks are kept, and --restart begins anew."""
    interrupt(family)
    change(family)
    before = folder_bytes(family.staging)
    command = ("merge", family.recipe_path, family.out, "--shard-size", "20000", *arguments)
    outcome = dovetail(*command)
    assert (
        f"error: unfinished output {family.staging} cannot be continued: {reason.format(math=family.math)}; expected "
        "the same recipe, options and inputs as before; restore them, or pass --restart to begin anew\n"
    ) == outcome.err
    assert (5, "") == (outcome.code, outcome.out)
    assert before == folder_bytes(family.staging)
    assert 0 == dovetail(*command, "--restart").code
    assert 0 == dovetail("verify", family.out).code


def test_a_lost_shard(family: Family) -> None:
    """If a file of the unfinished output is missing, the error says so and recommends --restart."""
    interrupt(family)
    lost = sorted(family.staging.glob("*.safetensors"))[-1]
    lost.unlink()
    outcome = dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000")
    assert outcome.err.endswith(
        f"\nerror: unfinished output {family.staging} cannot be continued: No such file or directory ({lost}); "
        "expected the output files as the interrupted merge left them; pass --restart to begin anew\n"
    )
    assert 5 == outcome.code
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--shard-size", "20000", "--restart").code


def test_a_recipe_written_differently_continues(family: Family) -> None:
    """A recipe with other comments or another order of keys continues the merge."""
    interrupt(family)
    lines = family.recipe_path.read_text().splitlines()
    reordered = [*(line for line in lines if line.startswith("dtype")), "# a comment"]
    reordered += [line for line in lines if not line.startswith("dtype")]
    family.recipe_path.write_text("\n".join(reordered) + "\n")
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    assert any(isinstance(event, events.Notice) and "Continuing" in event.text for event in seen)
    assert family.recipe_path.read_bytes() == (family.out / "dovetail_recipe.yml").read_bytes()


@pytest.mark.parametrize(("target", "number", "code"), [("sink", errno.EIO, 5), ("journal", errno.ENOSPC, 4)])
def test_a_disk_that_fails(
    family: Family, monkeypatch: pytest.MonkeyPatch, target: str, number: int, code: int
) -> None:
    """Output that was not made durable does not count as done, and the same command ends with the same files."""
    kind: Any = SafetensorsSink if target == "sink" else Journal
    method = "commit" if target == "sink" else "append"
    original, left = getattr(kind, method), [3]

    def fail(self: Any, argument: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        original(self, argument)

    command = ("merge", family.recipe_path, family.out, "--shard-size", "20000", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(kind, method, fail)
        assert code == dovetail(*command).code
    assert not family.out.exists()
    assert 3 <= journal_rows(family) <= 9
    outcome = dovetail(*command)
    assert 0 == outcome.code
    assert outcome.events[0]["text"].startswith("Continuing an unfinished merge: ")
    assert expected_files(family) == folder_bytes(family.out)


@pytest.mark.parametrize("field", ["kept", "nonfinite", "overflowed", "delta_square", "merged_square"])
def test_a_journal_of_rows_that_cannot_be(family: Family, field: str, tmp_path: Path) -> None:
    """An entry whose checksum is right, but which no chunk can have, is taken for damage: it and all after it go."""
    plan = make_plan(family.recipe_path)
    table = RecordTable(plan)
    table.rows["done"] = 1
    table.rows[field][1] = -1
    journal = Journal(tmp_path / "journal", plan, RecordTable(plan))
    journal._table = table
    journal.append(np.arange(3))
    journal.close()
    found = RecordTable(plan)
    again = Journal(tmp_path / "journal", plan, found)
    again.close()
    assert 1 == again.resumed_rows
    assert [1, 0, 0] == found.rows["done"][:3].tolist()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda line: b'{"a":' * 100_000, "the journal is damaged"),
        (lambda line: line.replace(b'"inputs": {', b'"inputs": [], "x": {'), "the journal is damaged"),
        (lambda line: line.replace(b'"plan_hash": "', b'"plug_in": 7, "plan_hash": "x'), "the journal is damaged"),
        (lambda line: line.replace(b'"plan_hash": "', b'"plug_in": {}, "plan_hash": "x'), "was that of None None"),
    ],
)
def test_a_hostile_first_line(family: Family, damage: Callable[[bytes], bytes], text: str, tmp_path: Path) -> None:
    """A journal whose first line is nested too deeply, or has values of other kinds, is refused as any other."""
    plan, path = make_plan(family.recipe_path), tmp_path / "journal"
    table = RecordTable(plan)
    table.rows["done"] = 1
    journal = Journal(path, plan, table)
    journal.append(np.arange(1))
    journal.close()
    line, _, body = path.read_bytes().partition(b"\n")
    path.write_bytes(damage(line) + b"\n" + body)
    with pytest.raises(OutputError, match=text):
        Journal(path, plan, RecordTable(plan))

"""Publishing by processes that are killed, overtaken, or meet another merge: nothing is lost or published twice."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge
from dovetail.engine.actions import carry_out_part, publish_parts
from dovetail.engine.errors import OutputError
from dovetail.engine.output import publishing
from tests.engine.actions.ready_parts import OPTIONS, STEPS, Ready, make, published, renames
from tests.engine.conftest import Family
from tests.engine.outputs import Killed, contents
from tests.parts import end, start


@STEPS
def test_killed_at_every_step_of_publishing(
    family: Family, monkeypatch: pytest.MonkeyPatch, former: bool, after: bool
) -> None:
    """Whenever the process that publishes is killed, the former or the new output is whole, and another one ends it."""
    ready = Ready(family, former=former)
    for step in itertools.count():
        out = ready.copy()

        def kill(number: int, step: int = step) -> None:
            if number == step:
                raise Killed

        with monkeypatch.context() as patched:
            count = renames(out, kill, patched, after=after)
            with contextlib.suppress(Killed):
                ready.publish(out)
        staging = out.with_name(f".{out.name}.dovetail-partial")
        places = [path for path in (out, staging / "dovetail_parts" / "former") if path.exists()]
        found = [contents(path) for path in places]
        if ready.former:
            assert any(each == ready.before or ready.expected.items() <= each.items() for each in found)
        ready.publish(out)
        ready.check(out)
        if next(count) <= step:
            break
    assert step > 6


@STEPS
def test_overtaken_at_every_step_of_publishing(
    family: Family, monkeypatch: pytest.MonkeyPatch, former: bool, after: bool
) -> None:
    """Whenever another process publishes first, the slower one sees it, and takes nothing of the new output away."""
    ready = Ready(family, former=former)
    for step in itertools.count():
        out = ready.copy()
        told: list[bool] = []

        def overtake(number: int, step: int = step, out: Path = out, told: list[bool] = told) -> None:
            if number == step:
                told += published(ready.publish(out, "2/2"))

        with monkeypatch.context() as patched:
            count = renames(out, overtake, patched, after=after)
            told += published(ready.publish(out))
        ready.check(out)
        assert 1 == sum(told)
        if not told[1:]:
            break
        next(count)
    assert step > 6


@pytest.mark.parametrize("step", ["mark_done", "put_in_place", "remove_others", "publish_once"])
def test_another_merge_begins_where_a_slow_process_publishes(
    family: Family, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A process that another has overtaken leaves the merge alone that a third has begun under the same name."""
    ready = Ready(family, former=True)
    module = carry_out_part if step == "mark_done" else publish_parts
    out, recipe, real = ready.copy(), family.recipe_path.read_text(), getattr(module, step)
    staging = out.with_name(f".{out.name}.dovetail-partial")
    begun: list[dict[str, bytes | None]] = []

    def pause(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, step, real)
        assert [True] == published(ready.publish(out, "2/2"))
        family.recipe(dtype="float32")
        make(family, "1/2", out, overwrite=True)
        begun.append(contents(staging))
        family.recipe_path.write_text(recipe)
        return real(*arguments, **options)

    monkeypatch.setattr(module, step, pause)
    assert [False] == published(ready.publish(out))
    assert ready.expected == contents(out)
    assert begun == [contents(staging)]
    family.recipe(dtype="float32")
    make(family, "2/2", out, overwrite=True)
    merge(family.recipe_path, family.home / "third", OPTIONS)
    assert contents(family.home / "third") == contents(out)


def test_another_merge_begins_just_after_a_look(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the folder is published, and a third merge begun in its place, after it was found to be there still.

    Whatever the slower process moves and removes then, it does in the folder that it knows, and not in the new one.
    """
    ready = Ready(family, former=True)
    recipe, check = family.recipe_path.read_text(), publishing.WorkFolder.check
    for step in itertools.count():
        out, looks = ready.copy(), itertools.count()
        staging = out.with_name(f".{out.name}.dovetail-partial")
        begun: list[dict[str, bytes | None]] = []

        def look(self: Any, step: int = step, out: Path = out, looks: Iterator[int] = looks) -> None:
            check(self)
            if next(looks) == step:
                assert [True] == published(ready.publish(out, "2/2"))
                family.recipe(dtype="float32")
                make(family, "1/2", out, overwrite=True)
                begun.append(contents(out.with_name(f".{out.name}.dovetail-partial")))  # noqa: B023
                family.recipe_path.write_text(recipe)

        with monkeypatch.context() as patched:
            patched.setattr(publishing.WorkFolder, "check", look)
            told = published(ready.publish(out))
        assert [not begun] == told
        assert ready.expected == {name: found for name, found in contents(out).items() if name in ready.expected}
        if not begun:
            break
        found = contents(staging)
        changed = [name for name in found.keys() | begun[0].keys() if found.get(name) != begun[0].get(name)]
        assert [] == [name for name in changed if not name.startswith("dovetail_parts/own.")]  # which nobody reads
        shutil.rmtree(out)
        shutil.rmtree(staging)
    assert step > 6


def test_an_output_that_replaces_the_one_just_published(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is held up after its last renaming takes nothing away that has come in place of its output."""
    ready = Ready(family, former=False)
    out, called, exchanged = ready.copy(), publishing.WorkFolder.is_called, []

    def look(self: Any, path: Path) -> bool:
        if path == out and out.exists() and not exchanged:
            exchanged.append(out.rename(out.with_name("taken-away")))
            shutil.copytree(family.home / "former", out)
        return called(self, path)

    monkeypatch.setattr(publishing.WorkFolder, "is_called", look)
    with pytest.raises((FileNotFoundError, OutputError)):
        ready.publish(out)
    assert exchanged
    assert ready.before == contents(out)
    assert not out.with_name(f".{out.name}.dovetail-partial").exists()


def test_another_merge_begins_within_the_last_step(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output was taken away, and another merge begun, just before the last renaming, that merge goes on."""
    ready = Ready(family, former=False)
    out, recipe, rename = ready.copy(), family.recipe_path.read_text(), os.rename
    staging = out.with_name(f".{out.name}.dovetail-partial")
    begun: list[dict[str, bytes | None]] = []

    def renamed(source: Any, target: Any, **within: int) -> None:
        if Path(source) == staging and Path(target) == out and not begun:
            begun.append({})
            assert [True] == published(ready.publish(out, "2/2"))
            rename(out, out.with_name("taken-away"))
            family.recipe(dtype="float32")
            make(family, "1/2", out)
            begun.append(contents(staging))
            family.recipe_path.write_text(recipe)
        rename(source, target, **within)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", renamed)
        with pytest.raises((FileNotFoundError, OutputError)):
            ready.publish(out)
    assert not out.exists()
    assert begun[1] == contents(staging)
    family.recipe(dtype="float32")
    assert [True] == published(make(family, "2/2", out))


@pytest.mark.parametrize("error", [errno.ENOTEMPTY, errno.EBUSY])
def test_parts_that_another_process_still_uses(family: Family, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """What cannot be removed yet keeps nothing else, least of all the former output, and a later run removes it."""
    ready = Ready(family, former=True)
    out, remove = ready.copy(), shutil.rmtree

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if str(path).endswith("dovetail_parts"):
            raise OSError(error, os.strerror(error), str(path))
        remove(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", refuse)
        assert [True] == published(ready.publish(out))
        assert {"dovetail_parts"} == {path.name for path in out.iterdir()} - ready.expected.keys()
        assert not (out / "dovetail_parts" / "former").exists()
        assert [False] == published(ready.publish(out))
    assert [False] == published(ready.publish(out))
    ready.check(out)


def test_two_publish_at_the_same_time(family: Family) -> None:
    """Of processes that publish at the same time one does, and the others see that it is done."""
    ready = Ready(family, former=True)
    for number in range(2):
        out = ready.copy()
        told = family.home / f"told-{number}"

        def publish(number: int, out: Path = out, told: Path = told) -> None:
            text = "".join(map(str, published(ready.publish(out, f"{number}/3"))))
            with told.open("a") as file:
                file.write(f"{text}\n")

        children = [start(lambda number=number: publish(number)) for number in (1, 2, 3)]
        assert [0, 0, 0] == [end(child) for child in children]
        assert ["False", "False", "True"] == sorted(told.read_text().split())
        ready.check(out)

"""Processes that make parts at the same time, are killed, and publish: nothing is lost, nothing published twice."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import PlanOptions, RunOptions, SafetensorsFormat, events, merge
from dovetail.engine.actions import carry_out_part, publish_parts
from dovetail.engine.errors import OutputError
from dovetail.engine.run import lock
from tests.crash import cases
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import Killed, contents
from tests.part_kills import kill_parts
from tests.parts import end, start

OPTIONS = PlanOptions(SafetensorsFormat(10_000))
"""Shards that are small enough for two parts and for three to be balanced without smaller ones."""


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def make(family: Family, part: str, out: Path | None = None, **run: Any) -> list[events.Event]:
    """Make a part; give what was told."""
    seen: list[events.Event] = []
    merge(family.recipe_path, out or family.out, OPTIONS, RunOptions(part=part, workers=1, **run), seen.append)
    return seen


def published(seen: list[events.Event]) -> list[bool]:
    """Give whether the output was published now, if it was complete."""
    return [not event.already for event in seen if isinstance(event, events.Done)]


def no_flock(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Make every lock an error, as on a file system without locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)


class Ready:
    """An output of which nothing is left but to publish it: any number of copies, in place of a former one."""

    def __init__(self, family: Family, *, former: bool) -> None:
        self.family, self.former = family, former
        merge(family.recipe_path, family.home / "former", OPTIONS)
        self.before = contents(family.home / "former")
        family.recipe(parameters={"n": 2, "m": 16, "weight": 0.8})
        merge(family.recipe_path, family.home / "expected", OPTIONS)
        self.expected = contents(family.home / "expected")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(publish_parts, "put_in_place", _die)
            with pytest.raises(Killed):
                make(family, "1/1")
        self._numbers = itertools.count()

    def copy(self) -> Path:
        """Give an output folder that is ready to be published."""
        out = self.family.home / f"out-{next(self._numbers)}"
        shutil.copytree(self.family.staging, out.with_name(f".{out.name}.dovetail-partial"))
        if self.former:
            shutil.copytree(self.family.home / "former", out)
        return out

    def publish(self, out: Path, part: str = "1/1") -> list[events.Event]:
        """Publish it."""
        return make(self.family, part, out, overwrite=self.former)

    def check(self, out: Path) -> None:
        """Make sure that the output is complete, and nothing else is left."""
        assert self.expected == contents(out)
        assert [out.name] == [path.name for path in self.family.home.iterdir() if out.name in path.name]


def _die(*_: Any) -> None:
    raise Killed


def renames(out: Path, act: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, *, after: bool) -> Iterator[int]:
    """Call a function at every renaming that has to do with an output."""
    rename, count = Path.rename, itertools.count()

    def renamed(path: Path, target: Path) -> Path:
        if out.name not in str(target):
            return rename(path, target)
        number = next(count)
        if not after:
            act(number)
        found = rename(path, target)
        if after:
            act(number)
        return found

    monkeypatch.setattr(Path, "rename", renamed)
    return count


STEPS = pytest.mark.parametrize(
    ("former", "after"),
    [(False, False), (True, False), (True, True)],
    ids=["new", "overwrite", "overwrite-after-the-step"],
)


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


def test_locks_are_closed_before_they_are_removed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a file that is open stays under another name, and so would the folder of the parts."""
    settle, holds = carry_out_part.settle, []

    def look(out: Path) -> None:
        for name in ("dovetail_lock", "dovetail_parts/of-1/1.lock"):
            assert (out / name).exists()
            with lock.hold_lock(out / name) as hold:
                holds.append(hold)
        settle(out)

    monkeypatch.setattr(carry_out_part, "settle", look)
    make(family, "1/1")
    assert [lock.Hold.OURS] * 2 == holds


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
    for number in range(4):
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


def test_one_part_started_twice(family: Family) -> None:
    """While a process makes a part, a second one is refused, where the file system has locks."""

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(OutputError, match=f"another process is making part 1/2 of {family.out}; expected one"):
                make(family, "1/2")

    merge(family.recipe_path, family.out, OPTIONS, RunOptions(part="1/2"), listen)
    make(family, "2/2")
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    assert contents(family.home / "expected") == contents(family.out)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_parts_started_twice_without_locks(family: Family, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """Where there are no locks, two processes of each part make the same bytes, and one of all publishes them."""
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    no_flock(monkeypatch, error)
    told = family.home / "told"

    def work(part: str) -> None:
        seen = make(family, part)
        warned = any("has no locks" in event.text for event in seen if isinstance(event, events.Notice))
        with told.open("a") as file:
            file.write(f"{warned} {published(seen)}\n")

    children = [start(lambda part=part: work(part)) for part in ("1/2", "2/2", "1/2", "2/2")]
    assert [0] * 4 == [end(child) for child in children]
    assert 1 == told.read_text().count("[True]")
    assert "True" in told.read_text()
    assert contents(family.home / "expected") == contents(family.out)
    assert not family.staging.exists()


def test_two_undivided_merges_without_locks(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge goes on with a warning where there are no locks, and a second one at the same time does no harm."""
    merge(family.recipe_path, family.home / "expected", OPTIONS)
    no_flock(monkeypatch, errno.ENOLCK)
    children = [start(lambda: merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=1))) for _ in range(3)]
    assert [0] * 3 == [end(child) for child in children]
    assert contents(family.home / "expected") == contents(family.out)
    seen: list[events.Event] = []
    merge(family.recipe_path, family.home / "alone", OPTIONS, listen=seen.append)
    (warning,) = (event.text for event in seen if isinstance(event, events.Notice) and event.level == "warning")
    assert (
        f"The file system of {family.home} has no locks, so that nothing keeps a second process from making the same "
        "output at the same time: start only one."
    ) == warning
    assert contents(family.home / "expected") == contents(family.home / "alone")


def test_a_file_system_that_does_not_answer(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose server never answers is waited for once, for a while; the merge goes on with a warning."""
    import threading

    asked, never = [], threading.Event()

    def hang(descriptor: int, operation: int) -> None:
        asked.append(operation)
        never.wait()

    monkeypatch.setattr(fcntl, "flock", hang)
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_silent", set())
    seen: list[events.Event] = []
    merge(family.recipe_path, family.out, OPTIONS, listen=seen.append)
    never.set()
    assert family.out.exists()
    assert 1 == len(asked)
    assert any("has no locks" in event.text for event in seen if isinstance(event, events.Notice))


@pytest.mark.parametrize("name", ["cabs-magnitude-3", "magnitude-shards"])
def test_killed_at_random_instants(tmp_path: Path, name: str) -> None:
    """Killed at any instant, several at once, two of one part, divided anew: the result is always the same."""
    (case,) = (case for case in cases() if case.name == name)
    tally = end(start(lambda: kill_parts(tmp_path, case, 6, seed=1)))
    assert 0 == tally

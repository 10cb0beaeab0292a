"""Outputs that are ready to be published by processes that make parts, for tests of how that may be disturbed."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import PlanOptions, RunOptions, SafetensorsFormat, events, merge
from dovetail.engine.actions import publish_parts
from tests.engine.conftest import Family
from tests.engine.outputs import Killed, contents

OPTIONS = PlanOptions(SafetensorsFormat(10_000))
"""Shards that are small enough for two parts and for three to be balanced without smaller ones."""


def make(family: Family, part: str, out: Path | None = None, **run: Any) -> list[events.Event]:
    """Make a part; give what was told."""
    seen: list[events.Event] = []
    merge(family.recipe_path, out or family.out, OPTIONS, RunOptions(part=part, workers=1, **run), seen.append)
    return seen


def published(seen: list[events.Event]) -> list[bool]:
    """Give whether the output was published now, if it was complete."""
    return [not event.already for event in seen if isinstance(event, events.Done)]


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
    """Call a function at every renaming that has to do with an output, by its path or within its open folder."""
    rename, count = os.rename, itertools.count()

    def renamed(source: Any, target: Any, **within: int) -> None:
        if not within and out.name not in str(target):
            return rename(source, target)
        number = next(count)
        if not after:
            act(number)
        rename(source, target, **within)
        if after:
            act(number)
        return None

    monkeypatch.setattr(os, "rename", renamed)
    return count


STEPS = pytest.mark.parametrize(
    ("former", "after"),
    [(False, False), (True, False), (True, True)],
    ids=["new", "overwrite", "overwrite-after-the-step"],
)

"""Every function that takes a path takes text, `pathlib.Path`, and any other path-like object."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dovetail.engine
import dovetail.io
from dovetail.engine.actions.convert import convert_all, plan_conversion
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import verify
from dovetail.io.opening import read_checkpoint
from tests.engine.conftest import Family

As = Callable[[Path], Any]
"""How a path is given."""


class Entry:
    """A path-like object that is neither a text nor a `Path`, as `os.DirEntry` is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return "not the path"


def _merge(family: Family, given: As) -> None:
    dovetail.engine.merge(given(family.recipe_path), given(family.home / "merged"), stages=given(family.home / "s"))


def _convert(family: Family, given: As) -> None:
    dovetail.engine.convert(given(family.base), given(family.home / "converted"))


def _convert_all(family: Family, given: As) -> None:
    convert_all([str(family.base), str(family.math)], given(family.home / "all"))


def _make_moe(family: Family, given: As) -> None:
    path = family.home / "moe.yml"
    experts = [{"source_model": str(family.math)}, {"source_model": str(family.code)}]
    path.write_text(json.dumps({"base_model": str(family.base), "gate_mode": "random", "experts": experts}))
    dovetail.engine.make_moe(given(path), given(family.home / "mixture"))


def _search(family: Family, given: As) -> None:
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": str(family.math), "parameters": {"weight": {"search": [0.5, 1.0]}}},
            {"model": str(family.code), "parameters": {"weight": 1}},
        ],
    }
    path = family.home / "marked.yml"
    path.write_text(json.dumps(recipe))
    options = dovetail.engine.SearchOptions(budget=1, optimizer="random", given="arrays")
    dovetail.engine.search(given(path), lambda _: 1.0, given(family.home / "searched"), options)


def _of_output(function: Callable[..., Any], *arguments: Any) -> Callable[[Family, As], None]:
    def call(family: Family, given: As) -> None:
        dovetail.engine.merge(family.recipe_path, family.out)
        function(given(family.out), *arguments)

    return call


CALLS: dict[str, Callable[[Family, As], object]] = {
    "analyze": lambda family, given: dovetail.engine.analyze(given(family.recipe_path)),
    "merge": _merge,
    "convert": _convert,
    "convert_all": _convert_all,
    "plan_conversion": lambda family, given: plan_conversion(given(family.base)),
    "compare": lambda family, given: dovetail.engine.compare(given(family.base), given(family.math)),
    "extract_lora": lambda family, given: dovetail.engine.extract_lora(
        given(family.math), given(family.base), given(family.home / "adapter")
    ),
    "make_moe": _make_moe,
    "make_vectors": lambda family, given: dovetail.engine.make_vectors(
        given(family.recipe_path), given(family.home / "store")
    ),
    "search": _search,
    "plan": lambda family, given: dovetail.engine.plan(given(family.recipe_path)),
    "plan_stages": lambda family, given: dovetail.engine.plan_stages(
        given(family.recipe_path), None, given(family.home / "stages")
    ),
    "read_manifest": _of_output(dovetail.engine.read_manifest),
    "verify": _of_output(verify),
    "recompute": _of_output(recompute, 0.1),
    "open_checkpoint": lambda family, given: dovetail.io.open_checkpoint(given(family.base)),
    "load_state_dict": lambda family, given: dovetail.io.load_state_dict(given(family.base)),
    "read_checkpoint": lambda family, given: dovetail.io.read_checkpoint(given(family.base)),
    "opening.read_checkpoint": lambda family, given: read_checkpoint(given(family.base)),
}
"""A call of every public function that takes a path."""


@pytest.mark.parametrize("given", [str, Path, Entry])
@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_path(family: Family, name: str, given: As) -> None:
    """Every public function takes every kind of path."""
    CALLS[name](family, given)


def test_every_function_is_called() -> None:
    """The tests above call every public function of the two packages that takes a path."""
    public = [(name, getattr(package, name)) for package in (dovetail.engine, dovetail.io) for name in package.__all__]
    without_a_path = {"merge_tensors"}
    assert {name for name, value in public if inspect.isfunction(value)} - without_a_path <= set(CALLS)


def test_stages_planned_from_a_folder(family: Family) -> None:
    """Results of stages are found in a folder that is named by any kind of path."""
    text = family.recipe_path.read_text()
    recipe = family.home / "stages.yml"
    recipe.write_text(f"name: first\n{text}\n---\n{text.replace(str(family.code), 'first')}")
    folder = family.home / "stages"
    dovetail.engine.merge(recipe, family.out, stages=folder)
    for given in (str, Path, Entry):
        forecasts = dovetail.engine.plan_stages(recipe, None, given(folder))  # type: ignore[arg-type]
        assert [True, False] == [forecast.complete for forecast in forecasts]

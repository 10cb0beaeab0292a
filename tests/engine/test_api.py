"""The public names are complete, documented, and imported only when they are used."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dovetail.engine
import dovetail.io
from tests.checkpoints import cabs_recipe
from tests.engine.conftest import Family

PACKAGES = (dovetail.engine, dovetail.io)
FUNCTIONS = [
    (package, name) for package in PACKAGES for name in package.__all__ if inspect.isfunction(getattr(package, name))
]
STAGES = """\
name: average
merge_method: linear
models: [{model: math, parameters: {weight: 1}}, {model: code, parameters: {weight: 1}}]
---
merge_method: cabs
base_model: base
models: [{model: average, parameters: {weight: 1, n: 2, m: 4}}]
"""


def imported_for_type_checkers(package: ModuleType) -> Iterator[tuple[str, str]]:
    """Give module and name of everything that the source imports ``if TYPE_CHECKING``."""
    for node in ast.parse(inspect.getsource(package)).body:
        if isinstance(node, ast.If):
            for each in node.body:
                assert isinstance(each, ast.ImportFrom)
                assert all(alias.asname is None for alias in each.names)
                yield from ((str(each.module), alias.name) for alias in each.names)


def test_lists_agree() -> None:
    """The listed names, those imported on use, and those that type checkers see are the same, from the same modules."""
    table = {(module, name) for module, names in dovetail.engine._HOMES.items() for name in names}
    assert table == set(imported_for_type_checkers(dovetail.engine))
    assert {"errors", "events", *(name for _, name in table)} == set(dovetail.engine.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_names_are_there(package: ModuleType) -> None:
    """Every public name exists, is listed by ``dir`` and once in the list, and an unknown one is an error."""
    assert sorted(set(package.__all__)) == sorted(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'mrege'"):
        _ = package.mrege


def test_import_is_light() -> None:
    """Importing the package loads neither arrays nor compilers, and its first use does."""
    code = (
        "import sys, dovetail.engine as engine\n"
        "heavy = {'numpy', 'numba', 'zarr', 'pydantic', 'yaml', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'merge' in dir(engine)\n"
        "engine.merge\n"
        "assert {'numpy', 'numba'} <= set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_errors_are_all_public() -> None:
    """Every error that Dovetail raises can be caught by a public name."""
    found: set[type] = set()
    open_ends: list[Any] = [dovetail.io.DovetailError]
    while open_ends:
        for each in open_ends.pop().__subclasses__():
            found.add(each)
            open_ends.append(each)
    ours = {each for each in found if each.__module__.startswith("dovetail.") and each.__name__[0] != "_"}
    public = {getattr(dovetail.io, name) for name in dovetail.io.__all__}
    public |= {value for value in vars(dovetail.engine.errors).values() if isinstance(value, type)}
    assert set() == ours - public


@pytest.mark.parametrize(("package", "name"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", value))
def test_functions_are_documented(package: ModuleType, name: str) -> None:
    """Every public function describes its parameters, its result and its errors, and has an example."""
    function = getattr(package, name)
    text = inspect.getdoc(function) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in text
    part = text.partition("\nParameters\n")[2].partition("\nReturns\n")[0]
    described = {key for line in part.splitlines() if not line.startswith(" ") for key in line.split(", ")}
    assert set(inspect.signature(function).parameters) <= described


def test_fields_are_documented() -> None:
    """Every field of a public dataclass, and of an event, is followed by a line that describes it."""
    public = [getattr(dovetail.engine, name) for name in dovetail.engine.__all__]
    kinds = [kind for kind in (*public, *vars(dovetail.engine.events).values()) if dataclasses.is_dataclass(kind)]
    assert 15 < len(kinds)
    for kind in kinds:
        (definition,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(definition, ast.ClassDef)
        for field, following in itertools.pairwise([*definition.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                text = getattr(getattr(following, "value", None), "value", None)
                assert isinstance(text, str), f"{kind}: {ast.unparse(field)}"


@pytest.mark.parametrize(("package", "name"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", value))
def test_examples_run(package: ModuleType, name: str, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of every public function gives the result that it shows, beside a base model and two fine-tunes."""
    monkeypatch.chdir(family.home)
    cabs_recipe(family.recipe_path, Path("base"), [Path("math"), Path("code")])
    (family.home / "stages.yml").write_text(STAGES)
    if name in ("verify", "recompute", "read_manifest"):
        dovetail.engine.merge("recipe.yml", "merged")
    function = getattr(package, name)
    names = {each: getattr(package, each) for each in package.__all__}
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=names)
    said: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert test.examples
    assert "" == "".join(said)
    assert 0 == outcome.failed

"""The pages about the code name only what is there: every folder, every module, every function."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from dovetail.engine import merge, recompute, verify
from dovetail.engine.methods import sample
from dovetail.engine.methods.sample import runs
from dovetail.engine.planning import grid
from tests.doc_blocks import ROOT, make_templates

PAGES = ("architecture.md", "add-a-method.md", "add-a-format.md", "memory.md")
"""Pages of which every name is looked up."""

FILE_ENDINGS = {"py", "md", "toml", "methods"}
"""Last parts of dotted words that are names of files, or of groups of entry points, and not of the code."""

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
MISSING = object()

FOLDER = re.compile(r"(engine|io|tests|bench|docs|examples)/[\w/.-]*")


def text_of(page: str) -> str:
    """Give the text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def quoted(text: str) -> list[str]:
    """Give everything between single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def code_names(text: str) -> list[str]:
    """Give the dotted names in a text."""
    return [name for name in quoted(text) if NAME.fullmatch(name) and name.rpartition(".")[2] not in FILE_ENDINGS]


def look_up(name: str) -> Any:
    """Follow a name from its package, module by module and attribute by attribute.

    Returns
    -------
    object
        What has the name; None for a field of a class; `MISSING` where there is nothing of the name.

    """
    top = "" if name.startswith("dovetail.") else "dovetail." if name.startswith("io.") else "dovetail.engine."
    parts = f"{top}{name}".split(".")
    for count in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(found, attribute) and attribute not in getattr(found, "__annotations__", {}):
                return MISSING
            found = getattr(found, attribute, None)
        return found
    return MISSING


@pytest.mark.parametrize("page", PAGES)
def test_names_are_there(page: str) -> None:
    """Each dotted name of a page is that of a module, a class, a function, a constant or a field."""
    names = code_names(text_of(page))
    assert names
    assert [] == [name for name in names if look_up(name) is MISSING]


@pytest.mark.parametrize("page", PAGES)
def test_paths_are_there(page: str) -> None:
    """Each path of a page leads to a file or a folder of the tree."""
    paths = [word for word in quoted(text_of(page)) if FOLDER.fullmatch(word)]
    assert [] == [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run.task.execute", True),
        ("io.source.Source.read", True),
        ("methods.program.Problem.shape", True),
        ("planning.grid.Piece.start", True),
        ("run.task.exceute", False),
        ("run.tasks.execute", False),
        ("io.source.Source.raed", False),
        ("dovetail.engine.mrege", False),
    ],
)
def test_look_up(name: str, *, expected: bool) -> None:
    """The look-up finds what is there, and nothing else."""
    assert expected == (look_up(name) is not MISSING)


@pytest.mark.parametrize("top", ["engine", "io"])
def test_tables_of_folders(top: str) -> None:
    """The page has every folder, in the order of the contract that import-linter enforces, lowest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [f"dovetail.{top}"])
    modules = [name.strip() for layer in reversed(layers) for name in layer.split("|")]
    expected = [f"{top}/{name}/" for name in modules if (ROOT / top / name).is_dir()]
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert expected == re.findall(rf"^\| `({top}/\w+/)` \|", text, flags=re.MULTILINE)


def test_every_page_about_the_code_is_checked() -> None:
    """The pages are there, and CONTRIBUTING.md sends its readers to them."""
    contributing = Path(ROOT / "CONTRIBUTING.md").read_text()
    assert [] == [page for page in PAGES if f"(docs/{page})" not in contributing]


@contextmanager
def recorded_calls() -> Iterator[set[CodeType]]:
    """Record the code of every Python function that is called, in this thread and in those begun meanwhile."""
    called: set[CodeType] = set()

    def record(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.add(frame.f_code)

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def functions(names: list[str]) -> dict[str, Callable[..., Any]]:
    """Find the functions and methods among some names; compiled kernels are not seen when they are called."""
    found = {name: inspect.unwrap(look_up(name)) for name in names if not name.startswith("kernels.")}
    return {name: each for name, each in found.items() if inspect.isfunction(each) or inspect.ismethod(each)}


def test_a_chunk_passes_every_function_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge by TIES of tensors in several chunks calls each function that the page names on a chunk's way."""
    templates = make_templates(tmp_path)
    models = [
        {"model": str(templates / name), "parameters": {"weight": 1, "density": 0.5}} for name in ("math", "code")
    ]
    recipe = {"merge_method": "ties", "base_model": str(templates / "base"), "models": models}
    monkeypatch.setattr(grid, "CHUNK_STEP", 4096)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    for name, value in (("RUN", 16), ("LEAST_LENGTH", 5000), ("_LEAST_RUNS", 100)):
        monkeypatch.setattr(sample, name, value)
    runs.cache_clear()
    with recorded_calls() as called:
        merge(recipe, tmp_path / "out")
        verify(tmp_path / "out")
        recompute(tmp_path / "out", 0.1)
    runs.cache_clear()
    _, _, rest = text_of("architecture.md").partition("## The life of one chunk\n")
    named = functions(code_names(rest.partition("\n## ")[0]))
    assert len(named) > 35
    assert [] == [name for name, each in named.items() if each.__code__ not in called]

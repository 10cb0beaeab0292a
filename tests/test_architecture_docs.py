"""The pages about the code name only what is there: every folder, every module, every function."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from tests.doc_blocks import ROOT

PAGES = ("architecture.md", "add-a-method.md", "add-a-format.md", "memory.md")
"""Pages of which every name is looked up."""

FILE_ENDINGS = {"py", "md", "toml", "methods"}
"""Last parts of dotted words that are names of files, or of groups of entry points, and not of the code."""

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
FOLDER = re.compile(r"(engine|io|tests|bench|docs|examples)/[\w/.-]*")


def quoted(page: str) -> list[str]:
    """Give everything between single backticks in the text of a page, outside of fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def code_names(page: str) -> list[str]:
    """Give the dotted names of a page; the arguments of a call are no part of its name."""
    names = [word.partition("(")[0] for word in quoted(page)]
    return [name for name in names if NAME.fullmatch(name) and name.rpartition(".")[2] not in FILE_ENDINGS]


def is_there(name: str) -> bool:
    """Whether a name can be followed from its package, module by module and attribute by attribute."""
    top = "" if name.startswith("dovetail.") else "dovetail." if name.startswith("io.") else "dovetail.engine."
    parts = f"{top}{name}".split(".")
    for count in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(found, attribute) and attribute not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, attribute, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_names_are_there(page: str) -> None:
    """Each dotted name of a page is that of a module, a class, a function, a constant or a field."""
    assert code_names(page)
    assert [] == [name for name in code_names(page) if not is_there(name)]


@pytest.mark.parametrize("page", PAGES)
def test_paths_are_there(page: str) -> None:
    """Each path of a page leads to a file or a folder of the tree."""
    paths = [word for word in quoted(page) if FOLDER.fullmatch(word)]
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
def test_look_up(name: str, expected: bool) -> None:
    """The look-up finds what is there, and nothing else."""
    assert expected == is_there(name)


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

"""docs/switching.md keeps its promise: each row of its tables is shown by a test that exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from tests.doc_blocks import ROOT

PAGE = ROOT / "docs" / "switching.md"
SECTIONS = (
    "In one minute", "Flags", "Recipes", "Numbers that differ and why", "Python", "What we do not do",
)  # fmt: skip
NAMED = re.compile(r"`(?P<file>tests/[\w/]+\.py)(?:::(?P<test>\w+))?`")


def sections() -> dict[str, list[str]]:
    """Give the lines of each section by its title, without those of code."""
    _, *parts = re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE).split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2].splitlines() for part in parts}


def rows() -> Iterator[str]:
    """Give the rows of all tables but those of flags and programs, which have a test of their own."""
    for title, lines in sections().items():
        for line, after in pairwise([*lines, ""]) if title != "Flags" else ():
            if line.startswith("|") and not line.startswith("|--") and not after.startswith("|--"):
                yield line


@cache
def names_in(file: str) -> frozenset[str]:
    """Name the tests of a file."""
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_sections() -> None:
    """The page has its sections, in their order, and says what it says in tables and code, not in lists."""
    found = sections()
    assert list(SECTIONS) == list(found)
    assert [] == [line for lines in found.values() for line in lines if re.match(r"\s*([-*]|\d+\.) ", line)]


def test_every_row_names_its_tests() -> None:
    """The last cell of a row names files of tests, or single tests in them, and all of these exist."""
    count = 0
    for row in rows():
        cell = row.rstrip("| ").rpartition("|")[2]
        named = list(NAMED.finditer(cell))
        assert named, f"no test shows: {row}"
        assert "" == NAMED.sub("", cell).strip(" ,")
        for each in named:
            assert not each["test"] or each["test"] in names_in(each["file"]), f"there is no test {each[0]}"
        count += 1
    assert count > 15

"""The engine asks sources, slots and sinks what it has to know, and mypy sees to it that each of them answers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.io.output_format import Sink
from dovetail.io.source import Slot, Source

ROOT = Path(__file__).parents[1]


MEMBERS = {name for protocol in (Source, Slot, Sink) for name in vars(protocol) if not name.startswith("_")}
"""What the protocols ask for."""


def classes(top: str) -> Iterator[tuple[ast.ClassDef, str]]:
    """Give every class in a folder, and where it is."""
    for path in sorted((ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node, f"{path.relative_to(ROOT)}:{node.lineno}"


def own_names(node: ast.ClassDef) -> set[str]:
    """Give the names of a class's methods."""
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def implements(node: ast.ClassDef) -> str:
    """Say whether a class is a source, a slot or a sink, even if it lacks a member; give nothing if it is none."""
    names = own_names(node)
    if "Protocol" in map(ast.unparse, node.bases):
        return ""
    if {"read", "populate", "release"} <= names:
        return "source"
    if "Slot" in node.name and "write" in names:
        return "slot"
    return "sink" if {"slot", "commit"} <= names else ""


KNOWN = [(node, place) for top in ("io", "engine") for node, place in classes(top) if implements(node)]
"""All sources, slots and sinks."""

CONCRETE = {node.name for node, _ in KNOWN}
"""Their names."""


def questions_of_class(code: str) -> list[int]:
    """Find the lines of code that ask whether an object is a certain source, slot or sink, or has a certain member."""
    found = []
    for node in ast.walk(ast.parse(code)):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                asked = node.args[1:]
            elif node.func.id in ("getattr", "hasattr"):
                asked = [item for item in node.args[1:2] if isinstance(item, ast.Constant)]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Call) and ast.unparse(side.func) == "type" for side in sides):
                asked = sides
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        names = {inner.id for item in asked for inner in ast.walk(item) if isinstance(inner, ast.Name)}
        names |= {inner.attr for item in asked for inner in ast.walk(item) if isinstance(inner, ast.Attribute)}
        texts = {item.value for item in asked if isinstance(item, ast.Constant)}
        if names & CONCRETE or texts & MEMBERS:
            found.append(node.lineno)
    return found


def test_the_engine_asks_for_no_class() -> None:
    """No module of the engine asks whether a source, slot or sink is of a certain class."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "engine").rglob("*.py"))
        if (lines := questions_of_class(path.read_text()))
    }
    assert {} == found


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(source, MappedSource)",
        "isinstance(source, (int, zarr.source.ZarrSource))",
        "isinstance(item.slot, FileSlot | ArraySlot)",
        "type(source) is MappedSource",
        "issubclass(kind, SafetensorsSink)",
        "getattr(source, 'scratch_bytes', 0)",
        "hasattr(slot, 'file_place')",
        "match source:\n    case GatheredSource(): pass",
    ],
)
def test_questions_are_found(code: str) -> None:
    """Whatever the form of the question, it is found."""
    assert questions_of_class(code)


def test_implementations_are_checked() -> None:
    """Every source and slot is marked as one, so that mypy compares it with the protocol."""
    unmarked = [
        place
        for node, place in KNOWN
        if implements(node) != "sink"  # these are compared where `create_sink` returns them
        and f"checked_{implements(node)}" not in map(ast.unparse, node.decorator_list)
    ]
    assert [] == unmarked
    assert {"MappedSource", "StridedSource", "RemoteSource", "ZarrSource", "ElementRun"} <= CONCRETE
    assert {"FilledElements", "GatheredSource", "ChangedSource", "DoraSource"} <= CONCRETE
    assert {"FileSlot", "ArraySlot", "SafetensorsSink", "ZarrSink"} <= CONCRETE


WRAPPER = """
from dovetail.io.source import Decoding, MappedBytes, Source, checked_source

@checked_source
class Wrapper:
    def __init__(self, source: Source) -> None:
        self.source, self.length, self.itemsize, self.copies = source, source.length, source.itemsize, source.copies
        self.read, self.prefetch, self.populate = source.read, source.prefetch, source.populate
        self.release, self.mapped_bytes, self.decoding = source.release, source.mapped_bytes, source.decoding

    def stored_objects(self) -> None:
        pass
"""
"""A source that wraps another and forgets its scratch memory."""

REMEMBERED = """
    @property
    def scratch_bytes(self) -> int:
        return self.source.scratch_bytes
"""


@pytest.mark.slow
def test_a_wrapper_that_forgets_a_member_is_found(tmp_path: Path) -> None:
    """mypy refuses a source that has all members but one, and takes it when the member is there."""
    (tmp_path / "dovetail").mkdir()
    (tmp_path / "dovetail" / "__init__.py").touch()  # that of the package would have mypy read the engine
    (tmp_path / "dovetail" / "io").symlink_to(ROOT / "io")
    (tmp_path / "forgetful.py").write_text(WRAPPER)
    (tmp_path / "mindful.py").write_text(WRAPPER + REMEMBERED)
    outcome = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")),
            *("--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"),
            *("--no-site-packages", "forgetful.py", "mindful.py"),  # the types of libraries take most of the time
        ],
        cwd=tmp_path,
        env={"MYPYPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Value of type variable "_AnySource" of "checked_source" cannot be "Wrapper"' in outcome.stdout, outcome
    assert 1 == outcome.stdout.count("error:"), outcome.stdout
    assert outcome.stdout.startswith("forgetful.py:")

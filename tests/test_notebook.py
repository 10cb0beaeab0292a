"""The notebook in examples/ runs from its first cell to its last, and shows what it says that it shows."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from dovetail.engine import run
from dovetail.io import load_state_dict

NOTEBOOK = Path(__file__).parents[1] / "examples" / "python.ipynb"


def code_cells() -> list[str]:
    """Read the cells of code."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def execute(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and give the value of its last expression, which is shown below it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore


def test_it_has_no_outputs() -> None:
    """What cells printed is not kept: it would grow stale, and every run would change the file."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [] == [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Three recipes are merged with progress, a plan takes under 20 lines, and memory gives the bits of files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dovetail.engine.progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr(run.prepare, "resident_bytes", lambda: 200 * 2**20)  # a test's process holds other libraries
    names: dict[str, Any] = {}
    shown = [execute(source, names) for source in code_cells()]
    said = capsys.readouterr().out
    (planned,) = (value for value in shown if type(value).__name__ == "Plan")
    assert len(repr(planned).splitlines()) < 20
    assert len(planned._repr_html_().split("<tr>")) < 20
    assert {"ties", "linear", "cabs"} == {path.name for path in (tmp_path / "merged").iterdir()}
    assert 3 == said.count("merging 100.0%")
    assert (torch.bfloat16, (64,)) in [tuple(value) for value in shown if isinstance(value, tuple)]
    files = load_state_dict(tmp_path / "merged" / "ties")
    assert files.keys() == names["in_memory"].keys()
    for name, tensor in files.items():
        assert torch.equal(tensor.view(torch.uint8), names["in_memory"][name].view(torch.uint8)), name
    assert "11 tensors merged in memory, equal to those of the files: True\n" in said

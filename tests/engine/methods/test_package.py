"""What methods of other distributions import from `dovetail.engine.methods`."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import dovetail.engine.methods as package


def test_names_are_there() -> None:
    """Every public name can be had, those that are imported late are the ones type checkers see, and others are not."""
    late = {
        (node.module, alias.name)
        for statement in ast.parse(inspect.getsource(package)).body
        if isinstance(statement, ast.If)
        for node in statement.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for _, name in late} <= set(package.__all__)
    for module, name in late:
        assert getattr(sys.modules[str(module)], name) is getattr(package, name)
    assert [] == [name for name in package.__all__ if not hasattr(package, name)]
    with pytest.raises(AttributeError, match="has no attribute 'decode_all'"):
        package.decode_all  # noqa: B018


def test_rows_without_numba() -> None:
    """Whoever imports a row of the table, as the reading of recipes does, does not wait for numba."""
    code = "import sys; from dovetail.engine.methods import Method, OnePass, Output; print('numba' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "False\n" == outcome.stdout

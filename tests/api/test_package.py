"""The package `dovetail` gives every public name, imports nothing before it is used, and is typed."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib

import pytest

import dovetail
import dovetail.engine
import dovetail.io
from tests.packaging import ROOT


def names_for_type_checkers() -> dict[str, str]:
    """Give the module of every name that the source imports ``if TYPE_CHECKING``."""
    (block,) = (node for node in ast.parse(inspect.getsource(dovetail)).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_names_are_those_of_the_packages() -> None:
    """Every listed name is the one of the package that type checkers are told of, and the version is beside them."""
    found = names_for_type_checkers()
    assert {"__version__", *found} == set(dovetail.__all__)
    for name, module in found.items():
        assert getattr(sys.modules[module], name) is getattr(dovetail, name)


def test_nothing_public_is_left_out() -> None:
    """All names of the engine are here, and all functions of io."""
    functions = {name for name in dovetail.io.__all__ if inspect.isfunction(getattr(dovetail.io, name))}
    assert set() == {*dovetail.engine.__all__, *functions} - set(dovetail.__all__)


def test_names_are_listed_and_others_refused() -> None:
    """``dir`` lists all names and both packages; another name is an error."""
    assert {*dovetail.__all__, "engine", "io"} <= set(dir(dovetail))
    with pytest.raises(AttributeError, match="module 'dovetail' has no attribute 'mrege'"):
        _ = dovetail.mrege


def test_version_is_the_project_s() -> None:
    """The version is that of ``pyproject.toml``."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == dovetail.__version__


def test_import_is_light() -> None:
    """Importing the package loads no library but Python's, and a name loads what it needs."""
    code = (
        "import sys, dovetail\n"
        "heavy = {'numpy', 'numba', 'zarr', 'torch', 'pydantic', 'yaml', 'rich', 'importlib.metadata'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'merge' in dir(dovetail) and dovetail.io.open_checkpoint is dovetail.open_checkpoint\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from dovetail import merge\n"
        "assert {'numpy', 'numba'} <= set(sys.modules) and not {'zarr', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

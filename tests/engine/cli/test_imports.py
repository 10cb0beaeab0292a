"""What commands import: what a command does not need, it does not wait for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import write_recipe
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.pace import HANGS_S

SCRIPT = """
import json, sys
from dovetail.engine.__main__ import main
sys.argv = ["dovetail", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    sys.stderr.write(json.dumps([end.code, sorted(sys.modules)]))
"""

METHODS = {
    f"dovetail.engine.methods.{name}"
    for name in ("cabs", "linear", "ties", "dare", "della", "slerp", "karcher", "tsv_m", "analysis", "moe", "stored")
}

UNUSED = {
    "numba.np.arrayobj",  # only compiling needs it
    "numba.np.arraymath",
    "numpy.ma",
    "scipy.linalg",
    "torch",
    "zarr",
    "safetensors",
    "dovetail.engine.actions.carry_out_part",
    "dovetail.engine.actions.merge_stages",
    "dovetail.engine.methods.plugins",
    "dovetail.engine.planning.alike",
    "dovetail.engine.planning.vocabulary.making",
    "dovetail.engine.planning.vectors.using",
    "dovetail.engine.searching",
    "dovetail.engine.cli.report.page",
    "dovetail.io.adapters",
    "dovetail.io.formats.quantised.weights",
    "dovetail.io.formats.torch_reader",
    "dovetail.io.remote.reader",
    "dovetail.io.zarr.reader",
    "dovetail.io.zarr.source",
}
"""What neither a plan nor a merge of local models in safetensors needs."""


def imported(*arguments: str | Path) -> set[str]:
    """Run a command in a process of its own; give the modules that it has imported."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([str(each) for each in arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS_S)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert 0 == code
    return set(modules)


def linear(family: Family) -> Path:
    """Write a recipe of the mean of two models."""
    models = [{"model": str(each)} for each in (family.math, family.code)]
    return write_recipe(family.recipe_path, merge_method="linear", models=models, parameters={"weight": 0.5})


def test_a_plan_imports_its_method_alone(family: Family) -> None:
    """A plan by CABS imports no other method, no reader but that of safetensors, and no compiler."""
    assert 0 == dovetail("plan", family.recipe_path).code  # so that its kernels are compiled
    found = imported("plan", family.recipe_path)
    assert "dovetail.engine.methods.cabs" in found
    assert set() == found & (UNUSED | METHODS - {"dovetail.engine.methods.cabs"})


def test_a_merge_imports_its_method_alone(family: Family) -> None:
    """A merge that says nothing imports nothing to say it with either."""
    recipe = linear(family)
    assert 0 == dovetail("plan", recipe).code
    found = imported("merge", recipe, family.out, "--quiet")
    assert "dovetail.engine.methods.linear" in found
    assert set() == found & (UNUSED | METHODS - {"dovetail.engine.methods.linear"} | {"rich"})


def test_a_plan_imports_no_kernels_of_other_methods(family: Family) -> None:
    """TIES ranks whole tensors: it imports no kernels that mark at random or rank rows, as those of DARE and DELLA."""
    models = [{"model": str(each)} for each in (family.math, family.code)]
    parameters = {"density": 0.5, "weight": 1.0}
    recipe = write_recipe(
        family.recipe_path, merge_method="ties", base_model=str(family.base), models=models, parameters=parameters
    )
    found = imported("plan", recipe)
    assert "dovetail.engine.methods.ties" in found
    assert set() == found & {f"dovetail.engine.kernels.{name}" for name in ("marked_sum", "ranks", "row_marks")}


@pytest.mark.parametrize("command", [("--help",), ("help", "merge"), ("modules", "train", "--help"), ("--version",)])
def test_help_imports_no_engine(command: tuple[str, ...]) -> None:
    """Help, of whatever command, waits neither for arrays nor for tables."""
    assert set() == imported(*command) & {"numpy", "numba", "llvmlite", "rich", "yaml"}

"""Methods of other distributions: a real package, built and installed, merges like any method of Dovetail."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.errors import InterruptedMergeError, OutputError, RecipeError, VerificationError
from dovetail.engine.methods import REQUIRED, Method, Parameter
from dovetail.engine.methods.checking import defects
from dovetail.engine.methods.plugins import PlugIns, load_plug_ins
from dovetail.engine.methods.registry import METHODS, find, plug_ins
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.run.prepare import RunOptions
from tests.checkpoints import folder_bytes, llama_tensors, read_output, write_checkpoint, write_recipe
from tests.engine.command import Outcome, dovetail, dovetail_process
from tests.engine.interrupt import OPTIONS, Interrupter, commit_often

SOURCE = Path(__file__).parents[2] / "plug_in"
BROKEN = (
    "entry 'broken' of the plug-in dovetail-median 1.0 cannot be used: RuntimeError: something is missing here; update "
    "the plug-in, or uninstall it"
)


def install(target: Path, version: str = "1.0") -> Path:
    """Build and install the package into a folder."""
    source = target.with_name(f"{target.name}-source")
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    settings = source / "pyproject.toml"
    settings.write_text(settings.read_text().replace('version = "1.0"', f'version = "{version}"'))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*command, *options, str(source)], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the package installed."""
    return install(tmp_path_factory.mktemp("plug-in") / "site")


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find the package."""
    monkeypatch.syspath_prepend(site)
    plug_ins.cache_clear()
    yield
    plug_ins.cache_clear()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Write three models and a recipe that takes their median."""
    base = llama_tensors(0)
    folders = [write_checkpoint(tmp_path / f"m{seed}", llama_tensors(seed, base)) for seed in (1, 2, 3)]
    models = [{"model": str(folder)} for folder in folders]
    return write_recipe(tmp_path / "recipe.yml", merge_method="median", models=models, parameters={"shift": 0.5})


def command(site: Path, *arguments: str | Path) -> Outcome:
    """Run the command with the package installed."""
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dovetail_process(*arguments, environment={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


def expected_tensors(recipe: Path) -> dict[str, Any]:
    """Take the median by sorting, with plain numpy."""
    models = [read_output(recipe.parent / f"m{seed}") for seed in (1, 2, 3)]
    return {
        name: (np.sort([model[name].astype(np.float32) for model in models], axis=0)[1] + np.float32(0.5)).astype(
            tensor.dtype
        )
        for name, tensor in models[0].items()
    }


def test_the_command_merges_by_it(site: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output has the bits of the oracle, and verifies, and computing it again gives the same."""
    out = recipe.parent / "out"
    outcome = command(site, "merge", recipe, out, "--quiet")
    assert (0, "", "") == (outcome.code, outcome.out, outcome.err)
    found, expected = read_output(out), expected_tensors(recipe)
    assert set(expected) == set(found)
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)
    monkeypatch.syspath_prepend(site)
    plug_ins.cache_clear()
    try:
        assert 0 == dovetail("verify", out, "--recompute", "1").code
    finally:
        plug_ins.cache_clear()


def test_the_manifest_records_it(installed: None, recipe: Path) -> None:
    """Distribution and version of a plug-in are in the manifest and the card; our methods have no such key."""
    out = recipe.parent / "out"
    merge(recipe, out)
    assert {"distribution": "dovetail-median", "version": "1.0"} == read_manifest(out)["plug_in"]
    assert "by `median` of dovetail-median 1.0." in (out / "README.md").read_text()
    models = [{"model": str(recipe.parent / f"m{seed}"), "parameters": {"weight": 1}} for seed in (1, 2)]
    merge({"merge_method": "linear", "models": models}, recipe.parent / "linear")
    assert "plug_in" not in read_manifest(recipe.parent / "linear")


def test_processes_run_it(installed: None, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in other processes give the same bytes as threads."""
    merge(recipe, recipe.parent / "threads")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        merge(recipe, recipe.parent / "processes", run=RunOptions(executor=pool))
    assert folder_bytes(recipe.parent / "threads") == folder_bytes(recipe.parent / "processes")


def test_methods_are_listed_with_their_distribution(installed: None) -> None:
    """The table has the usable ones last, and warnings name every entry that is not usable, with the reason."""
    outcome = dovetail("methods")
    assert 0 == outcome.code
    assert (
        "median: Take the median of the models, element by element.\n  plug-in     dovetail-median 1.0" in outcome.out
    )
    listed = json.loads(dovetail("methods", "--json").out)
    assert [*METHODS, "median", "median_again"] == [row["name"] for row in listed]
    assert [None] * len(METHODS) == [row["plug_in"] for row in listed[:-2]]
    assert {"distribution": "dovetail-median", "version": "1.0"} == listed[-1]["plug_in"]
    others = "warning: entry 'others' of the plug-in dovetail-median 1.0 cannot be used: "
    assert [
        f"warning: {BROKEN}",
        f"{others}its name 'linear' is that of a method of Dovetail; update the plug-in, or uninstall it",
        f"{others}its summary is not one line of text; update the plug-in, or uninstall it",
    ] == outcome.err.splitlines()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("broken", "but entry 'broken' of the plug-in dovetail-median 1.0 cannot be used: RuntimeError: something"),
        ("median_without_summary", "but entry 'others' of the plug-in dovetail-median 1.0 cannot be used: its summary"),
        ("mediann", "(did you mean 'median'?); expected one of cabs, "),
        ("mediann", "entry 'broken' of the plug-in dovetail-median 1.0 cannot be used: RuntimeError: something"),
    ],
)
def test_asking_for_what_cannot_be_used(installed: None, recipe: Path, name: str, expected: str) -> None:
    """The error names recipe, line, distribution, entry and reason."""
    recipe.write_text(recipe.read_text().replace("median", name))
    with pytest.raises(RecipeError) as caught:
        make_plan(recipe)
    assert str(caught.value).startswith(f"{recipe}, line 1: merge_method is '{name}'")
    assert expected in str(caught.value)


def test_our_methods_never_look_for_plug_ins(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge by a method of Dovetail does not scan what is installed."""

    def scan(**options: str) -> None:
        raise AssertionError("scanned")

    monkeypatch.setattr("importlib.metadata.distributions", scan)
    models = [{"model": str(recipe.parent / f"m{seed}"), "parameters": {"weight": 1}} for seed in (1, 2)]
    merge({"merge_method": "linear", "models": models}, recipe.parent / "linear")
    plug_ins.cache_clear()
    with pytest.raises(AssertionError, match="scanned"):
        find("median")


def test_a_broken_plug_in_does_not_stop_others(installed: None, recipe: Path) -> None:
    """A merge by a method of Dovetail, or by another entry of the same distribution, says nothing of broken ones."""
    models = [{"model": str(recipe.parent / f"m{seed}")} for seed in (1, 2, 3)]
    for method in ("median_again", "karcher"):
        write_recipe(recipe, merge_method=method, models=models)
        outcome = dovetail("merge", recipe, recipe.parent / method, "--quiet")
        assert (0, "", "") == (outcome.code, outcome.out, outcome.err)


def test_another_version_does_not_resume(installed: None, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one version has begun, or made, another does not continue, or check; the error names both versions."""
    commit_often(monkeypatch)
    out, before = recipe.parent / "out", make_plan(recipe, OPTIONS).hash
    with pytest.raises(InterruptedMergeError):
        merge(recipe, out, OPTIONS, listen=Interrupter(3))
    merge(recipe, recipe.parent / "whole", OPTIONS)
    older = find("median")
    assert older.plug_in is not None
    newer = PlugIns({"median": replace(older, plug_in=replace(older.plug_in, version="1.1"))}, ())
    monkeypatch.setattr("dovetail.engine.methods.registry.plug_ins", lambda: newer)
    assert before != make_plan(recipe, OPTIONS).hash
    with pytest.raises(OutputError) as refused:
        merge(recipe, out, OPTIONS)
    assert "the method median is that of dovetail-median 1.1, and was that of dovetail-median 1.0" in str(refused.value)
    with pytest.raises(VerificationError, match=r"the method median is that of dovetail-median 1\.1; expected that of"):
        recompute(recipe.parent / "whole", 1.0)


def test_two_distributions_with_one_name(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is preferred: the error names both."""
    other = tmp_path / "other"
    shutil.copytree(site, other)
    (info,) = other.glob("dovetail_median-*.dist-info")
    metadata = (info / "METADATA").read_text().replace("Name: dovetail-median", "Name: another")
    (info / "METADATA").write_text(metadata)
    info.rename(other / "another-1.0.dist-info")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(other)
    plug_ins.cache_clear()
    try:
        with pytest.raises(RecipeError) as caught:
            find("median")
    finally:
        plug_ins.cache_clear()
    both = "is brought by entry 'median' of another 1.0 and entry 'median' of dovetail-median 1.0"
    assert f"the method 'median' {both}" in str(caught.value)


def test_unreadable_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a damaged list is reported, and one of which the list is no text is left alone."""
    for name in ("damaged", "unrelated"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[dovetail.methods]\nno equals sign\n")
    (tmp_path / "unrelated-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff")
    monkeypatch.syspath_prepend(tmp_path)
    (fault,) = [fault for fault in load_plug_ins(METHODS).faults if "dovetail-median" not in str(fault)]
    assert str(fault).startswith("entry 'entry_points.txt' of the plug-in damaged 1.0 cannot be used: ")


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_our_own_rows_keep_the_rules(row: Method) -> None:
    """What is asked of others holds for Dovetail's methods."""
    assert [] == defects(row)


FLAWS: dict[str, tuple[Callable[[Method], Any], str]] = {
    "type": (lambda row: row.name, "'linear' is of type str, not a Method"),
    "name": (lambda row: replace(row, name="Linear"), "its name is 'Linear', not lower-case letters, digits and '_'"),
    "summary": (lambda row: replace(row, summary="two\nlines"), "its summary is not one line of text"),
    "paper": (
        lambda row: replace(row, paper="somewhere"),
        "its paper is 'somewhere', not an address or an empty string",
    ),
    "base": (lambda row: replace(row, base="both"), "its base is 'both', not one of origin, pair, optional, member"),
    "program": (lambda row: replace(row, program=None), "its program is None, not a function"),
    "least": (lambda row: replace(row, min_models=0), "its min_models is 0, not a number from 1 on"),
    "most": (
        lambda row: replace(row, min_models=3, max_models=2),
        "its max_models is 2, not None or a number from 3 on",
    ),
    "by name": (lambda row: replace(row, by_name=1), "its by_name is 1, not True or False"),
    "list": (lambda row: replace(row, parameters=[]), "its parameters are of type list, not a tuple"),
    "parameter": (
        lambda row: replace(row, parameters=("t",)),
        "'t' among its parameters is of type str, not a Parameter",
    ),
    "no name": (
        lambda row: replace(row, parameters=(Parameter("a b", "int", 1, "help"),)),
        "a parameter is called 'a b', not by letters, digits and '_'",
    ),
    "synonym": (
        lambda row: replace(row, parameters=(Parameter("t", "int", 1, "help", synonyms=("t",)),)),
        "two parameters are called 't'",
    ),
    "help": (
        lambda row: replace(row, parameters=(Parameter("t", "int", 1, ""),)),
        "its parameter 't' has a help that is not one line of text",
    ),
    "kind": (
        lambda row: replace(row, parameters=(Parameter("t", "text", "", "help"),)),  # type: ignore[arg-type]
        "its parameter 't' has the kind 'text', not one of float, int, bool, choice, models",
    ),
    "scope": (
        lambda row: replace(row, parameters=(Parameter("t", "int", 1, "help", "all"),)),  # type: ignore[arg-type]
        "its parameter 't' has the scope 'all', not model or merge",
    ),
    "default": (
        lambda row: replace(row, parameters=(Parameter("t", "int", True, "help"),)),
        "its parameter 't' has the default True, not one of the kind int",
    ),
    "no choices": (
        lambda row: replace(row, parameters=(Parameter("t", "choice", REQUIRED, "help"),)),
        "its parameter 't' has no choices, or has some and is no choice",
    ),
    "no choice": (
        lambda row: replace(row, parameters=(Parameter("t", "choice", "c", "help", choices=("a", "b")),)),
        "its parameter 't' has the default 'c', not one of its choices",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_rows_with_a_flaw(flaw: str) -> None:
    """Whatever is wrong with a row is said, and nothing else."""
    spoil, expected = FLAWS[flaw]
    assert [expected] == defects(spoil(METHODS["linear"]))


def test_taken_names() -> None:
    """A name that is in use is refused."""
    assert ["its name 'linear' is that of a method of Dovetail"] == defects(METHODS["linear"], {"linear"})

"""Objects of the public API are shown in a few lines, however large they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import PlanOptions, ZarrFormat, compare, merge, plan, plan_stages, read_manifest, verify
from dovetail.engine.planning.plan import Plan
from dovetail.io import read_checkpoint
from tests.checkpoints import llama_tensors, write_checkpoint

LONGEST = 700
"""Most characters of an object."""

LAYERS = 100
"""As many as in the largest models, each of them tiny."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base model of hundreds of tensors, and two fine-tunes with the longest of names."""
    home = tmp_path_factory.mktemp("large")
    base = llama_tensors(0, layers=LAYERS)
    write_checkpoint(home / "base", base)
    for name in models(home):
        changed = {key: value + value.dtype.type(0.01) for key, value in base.items()}
        write_checkpoint(Path(name), changed | {"model.norm.weight": base["model.norm.weight"]})
    return home


def models(home: Path) -> list[str]:
    """Name the fine-tunes."""
    return [str(home / f"{letter}-{'long' * 20}") for letter in "ab"]


@pytest.fixture(scope="module")
def recipe(home: Path) -> dict[str, Any]:
    """Merge them all."""
    each = [{"model": name, "parameters": {"weight": 0.5}} for name in models(home)]
    return {"merge_method": "task_arithmetic", "base_model": str(home / "base"), "models": each}


def parts(whole: Plan) -> Iterator[Any]:
    """Give a plan, each of its fields, and an item of each tuple, which has as many as the model has tensors."""
    yield whole
    for field in dataclasses.fields(whole):
        value = getattr(whole, field.name)
        yield value[0] if isinstance(value, tuple) and value and field.name != "models" else value


def check(value: Any, lines: int = 10) -> str:
    """See that an object is shown in a few lines that are not long, and give them."""
    text = repr(value)
    assert len(text) <= LONGEST, text
    assert len(text.splitlines()) <= lines, text
    return text


@pytest.mark.parametrize("form", ["safetensors", "zarr"])
def test_plans(recipe: dict[str, Any], form: str) -> None:
    """A plan of hundreds of tensors takes under 20 lines, and so do all its parts; it says what a person looks for."""
    planned = plan(recipe, PlanOptions(format=ZarrFormat()) if form == "zarr" else None)
    for part in parts(planned):
        check(part)
    text = check(planned)
    for said in ("task_arithmetic", "base", f"{len(planned.tensors)} tensors", "bfloat16", planned.hash[:16]):
        assert said in text
    assert all(line.strip().split("  ")[0] in planned._repr_html_() for line in text.splitlines()[1:])
    (forecast,) = plan_stages(recipe)
    assert "Forecast(the final merge: task_arithmetic, to be merged)" == check(forecast)


def test_names_are_escaped_in_tables(home: Path) -> None:
    """What a model is called cannot become markup of a notebook."""
    tensors = {"weight": np.ones(2, np.float32)}
    write_checkpoint(home / "<b>model", tensors)
    each = [{"model": str(home / "<b>model"), "parameters": {"weight": 1}}]
    assert "&lt;b&gt;model" in plan({"merge_method": "linear", "models": each})._repr_html_()


def test_results(home: Path, recipe: dict[str, Any]) -> None:
    """So do manifests, with all their tensors, comparisons, verdicts and checkpoints."""
    found = merge(recipe, home / "merged")
    assert check(found) == check(read_manifest(home / "merged"))
    assert "method   task_arithmetic" in check(found)
    assert found._repr_html_().startswith("<table>")
    comparison = compare(home / "merged", home / "base")
    assert f"{len(comparison.differences)} compared, {len(comparison.differences) - 1} with" in check(comparison)
    assert comparison._repr_html_().startswith("<table>")
    assert "Verdict(whole, unlisted: none, checked_bytes=" in check(verify(home / "merged"))
    (home / "merged" / "model.safetensors").write_bytes(b"")
    assert "Verdict(damaged in" in check(verify(home / "merged"))
    assert f"tensors: {len(found.table())}" in check(read_checkpoint(home / "base"), lines=1)

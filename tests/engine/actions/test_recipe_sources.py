"""A recipe may be a file, text or a dict: the weights are the same, and everything after a merge works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine import PlanOptions, merge, plan, plan_stages, read_manifest, recompute, verify
from dovetail.engine.errors import RecipeError
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import MissingFileError
from tests.checkpoints import cabs_recipe, folder_bytes
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import OPTIONS, Interrupter, commit_often

STAGES = """\
name: average
merge_method: linear
models: [{model: math, parameters: {weight: 1}}, {model: code, parameters: {weight: 1}}]
---
merge_method: cabs
base_model: base
models: [{model: average, parameters: {weight: 1, n: 2, m: 4}}]
"""


@pytest.fixture(autouse=True)
def _relative(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name models relative to the current folder."""
    monkeypatch.chdir(family.home)
    cabs_recipe(family.recipe_path, Path("base"), [Path("math"), Path("code")])


def content(family: Family) -> dict[str, Any]:
    """Give the content of the family's recipe."""
    found: dict[str, Any] = yaml.safe_load(family.recipe_path.read_text())
    return found


def test_all_sources_give_the_same(family: Family) -> None:
    """Path, path as text, YAML, JSON and dict: one plan, and the same output, recipe file included."""
    text = family.recipe_path.read_text()
    sources = (family.recipe_path, "recipe.yml", text, content(family))
    assert 1 == len({plan(source).hash for source in sources})
    for number, source in enumerate(sources):
        merge(source, family.home / f"out{number}")
    first = folder_bytes(family.home / "out0")
    assert text.encode() == first["dovetail_recipe.yml"]
    assert all(first == folder_bytes(family.home / f"out{number}") for number in (1, 2, 3))


@pytest.mark.parametrize("kind", ["text", "dict"])
def test_outputs_can_be_checked(family: Family, kind: str) -> None:
    """The output has its recipe, so that it can be verified and computed again, by the command too."""
    source = content(family) if kind == "dict" else family.recipe_path.read_text()
    merge(source, "out")
    family.recipe_path.unlink()
    assert source == (yaml.safe_load if kind == "dict" else str)(Path("out/dovetail_recipe.yml").read_text())
    assert () == verify("out").damage
    assert 37_440 * 2 == recompute("out", 1.0)
    assert 0 == dovetail("verify", "out", "--recompute", "1").code


@pytest.mark.parametrize("kind", ["text", "dict"])
def test_an_interrupted_merge_continues(family: Family, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal recognises the recipe, in whatever form it is given."""
    commit_often(monkeypatch)
    source = content(family) if kind == "dict" else family.recipe_path.read_text()
    with pytest.raises(Exception, match="interrupted"):
        merge(source, "out", OPTIONS, RunOptions(workers=1), Interrupter(5))
    seen = Interrupter(10**6)
    merge(family.recipe_path if kind == "text" else source, "out", OPTIONS, listen=seen)
    assert any("Continuing" in getattr(event, "text", "") for event in seen.seen)
    merge(family.recipe_path, "whole", OPTIONS)
    whole, resumed = folder_bytes(family.home / "whole"), folder_bytes(family.home / "out")
    assert whole == resumed


def test_stages_as_text(family: Family) -> None:
    """Several documents can be text too: planned, merged, kept, continued and computed again."""
    assert ["average", "the final merge"] == [forecast.title for forecast in plan_stages(STAGES, folder="kept")]
    merge(STAGES, "out", PlanOptions(dtype="float32"), stages="kept")
    assert STAGES == Path("out/dovetail_recipe.yml").read_text()
    assert ["average"] == [entry["name"] for entry in read_manifest("out")["stages"]]
    assert [True, False] == [f.complete for f in plan_stages(STAGES, PlanOptions(dtype="float32"), "kept")]
    assert recompute("out", 1.0) > 0
    assert recompute("kept/average", 1.0) > 0


def test_errors_name_the_recipe(family: Family) -> None:
    """Without a file, errors speak of the recipe, and of lines where a person wrote them."""
    recipe = content(family) | {"merge_method": "cabz"}
    with pytest.raises(RecipeError, match=r"^recipe: merge_method is 'cabz' \(did you mean 'cabs'\?\); expected "):
        plan(recipe)
    with pytest.raises(
        RecipeError, match=r"^recipe, line 1: merge_method is 'cabz' \(did you mean 'cabs'\?\); expected "
    ):
        plan(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(MissingFileError) as caught:
        plan(content(family) | {"base_model": "gone"})
    expected = "a checkpoint's folder or file, relative to the current folder, or ORG/NAME on a hub"
    assert expected == caught.value.expected


def test_several_documents_are_no_single_plan() -> None:
    """Planning a recipe of several documents as one is an error that names `plan_stages`."""
    with pytest.raises(RecipeError, match=r"^recipe: the recipe has 2 documents; .*plan_stages$"):
        plan(STAGES)

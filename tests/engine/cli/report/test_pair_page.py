"""The page of two merges: what differs between their recipes, their totals and their tensors."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge, read_manifest
from dovetail.engine.cli.report.page.columns import MOST_NUMBERS, fitting_columns
from dovetail.engine.cli.report.page.kinds import page_of_two
from dovetail.engine.cli.report.page.parts import Column
from dovetail.engine.cli.report.page.recipe_differences import differing_keys
from dovetail.engine.cli.report.page.render import render
from dovetail.engine.cli.report.page.side import find_shared, side
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.cli.report.pages import Parsed, grow_manifest, parse
from tests.engine.command import dovetail
from tests.engine.conftest import Family

TENSORS = "Every tensor of both"
LAYERS = "Differences by layer and kind of tensor"


def other_of(family: Family, **changes: Any) -> Path:
    """Merge the family by a recipe with some changes, into another folder."""
    merge(family.recipe(**changes), family.home / "other")
    return family.home / "other"


@pytest.fixture
def both(family: Family) -> tuple[Path, Path]:
    """Make two merges of the same models by other parameters."""
    merge(family.recipe_path, family.out)
    return family.out, other_of(family, parameters={"n": 1, "m": 8, "weight": 0.8})


def read(both: tuple[Path, Path]) -> Parsed:
    """Read the page of two merges."""
    return parse(render(page_of_two(*both)))


def test_recipes(both: tuple[Path, Path]) -> None:
    """Keys whose values differ are listed, and no others."""
    found = read(both)
    title = "Recipe, options and inputs, where they differ"
    first, second = (read_manifest(each)["recipe"]["parameters"] for each in both)
    assert ["parameters.n", "parameters.m"] == found.column(title, "key")
    assert [str(first["n"]), str(first["m"])] == found.column(title, "out")
    assert [str(second["n"]), str(second["m"])] == found.column(title, "other")


def test_keys() -> None:
    """Models are told by their names, in whatever order; what only one recipe has is None in the other."""
    first = {"models": [{"model": "a/x", "parameters": {"weight": 1}}, {"model": "y"}], "dtype": "float32"}
    second = {"models": [{"model": "y"}, {"model": "b/x", "parameters": {"weight": [1, 2]}}], "slices": {}}
    assert [
        ("models[x].model", "a/x", "b/x"),
        ("models[x].parameters.weight", "1", "[1, 2]"),
        ("dtype", "float32", None),
        ("slices", None, "{}"),
    ] == differing_keys(first, second)
    assert [] == differing_keys(first, dict(reversed(first.items())))


def test_tensors(both: tuple[Path, Path]) -> None:
    """Every tensor has the figures of both manifests, their difference, and whether its bytes are the same."""
    found = read(both)
    first, second = (read_manifest(each)["tensors"] for each in both)
    assert list(first) == found.column(TENSORS, "tensor")
    for title, key, place in (("math: density", "density", 0), ("code: norm kept", "kept_norm", 1)):
        ones, others = ([each["statistics"][key][place] for each in side.values()] for side in (first, second))
        assert ones == pytest.approx(found.column(TENSORS, f"{title}, out"), rel=1e-5)
        assert others == pytest.approx(found.column(TENSORS, f"{title}, other"), rel=1e-5)
        differences = [after - before for before, after in zip(ones, others, strict=True)]
        assert differences == pytest.approx(found.column(TENSORS, f"{title}, other minus out"), rel=1e-4)
    same = ["same" if first[name]["checksums"] == second[name]["checksums"] else "differ" for name in first]
    assert same == found.column(TENSORS, "bytes")
    assert "differ" in same


def test_heat_map(both: tuple[Path, Path]) -> None:
    """Every cell has the second merge's figure minus the first's, over all of its tensors; shares are of the first."""
    found = read(both)
    tensors = [read_manifest(each)["tensors"] for each in both]
    drawn = found.part(LAYERS)
    measures = {each["name"]: each for each in drawn["measures"]}
    names, layers, kinds = (found.column(TENSORS, name) for name in ("tensor", "layer", "kind"))
    for y, layer in enumerate(drawn["rows"]):
        for x, kind in enumerate(drawn["columns"]):
            own = [n for n, a, b in zip(names, layers, kinds, strict=True) if (a, b) == (layer, kind)]
            if not own:
                continue
            one, other = (math.hypot(*(each[name]["statistics"]["merged_norm"] for name in own)) for each in tensors)
            assert other - one == pytest.approx(measures["change of the base (norm)"]["values"][y][x], rel=1e-4)
            share = measures["change of the base, as a share of that by out"]["values"][y][x]
            assert (other - one) / one == pytest.approx(share, rel=1e-4)
    assert measures["math: density"]["signed"]
    assert not measures["change of the base by out (norm)"]["signed"]


def test_the_same_twice(family: Family) -> None:
    """Merges by the same recipe are the same in everything; folders of one name are told apart by where they are."""
    merge(family.recipe_path, family.out)
    (family.home / "copy").mkdir()
    shutil.copytree(family.out, family.home / "copy" / "out")
    found = read((family.out, family.home / "copy" / "out"))
    assert "Recipes, options and inputs are the same." in found.text
    assert {"same"} == set(found.column(TENSORS, "bytes"))
    assert {f"{family.home.name}/out", "copy/out"} == {
        column["name"] for column in found.part("The whole merge")["columns"][1:3]
    }


def test_what_only_one_has(family: Family) -> None:
    """Another base model, other models, and tensors that one lacks are named."""
    merge(family.recipe_path, family.out)
    shutil.copytree(family.base, family.home / "root")
    write_checkpoint(family.home / "third", llama_tensors(3, llama_tensors(0)))
    models = [{"model": str(family.home / name), "parameters": {"weight": 1.0}} for name in ("third", "math")]
    other = other_of(family, base_model=str(family.home / "root"), models=models)
    found = read((family.out, other))
    assert f"The base models differ: {family.base} in out, {family.home / 'root'} in other." in found.text
    assert "Only out has code among its models." in found.text
    assert "Only other has third among its models." in found.text
    assert ["math"] == found.column("Density of every model", "model")
    expected = read_manifest(other)["totals"]["density"][1]
    assert [expected] == pytest.approx(found.column("Density of every model", "other"), rel=1e-5)


def test_nothing_in_common(family: Family) -> None:
    """Merges without a common tensor are an error of one line, and so is what is no merge."""
    merge(family.recipe_path, family.out)
    write_checkpoint(family.home / "tiny", {"w": next(iter(llama_tensors(0).values()))})
    assert 0 == dovetail("convert", family.home / "tiny", family.home / "other", "--quiet").code
    page = family.home / "page.html"
    outcome = dovetail("report", family.out, family.home / "other", "--html", page)
    assert (5, 1) == (outcome.code, outcome.err.count("\n"))
    assert "out and other have no tensor of one name and shape; expected two outputs of merges" in outcome.err
    outcome = dovetail("report", family.out, family.base, "--html", page)
    assert (3, 1) == (outcome.code, outcome.err.count("\n"))
    assert not page.exists()


def test_conversions(family: Family) -> None:
    """A conversion beside a merge has its tensors, and nothing about changes."""
    merge(family.recipe_path, family.out)
    assert 0 == dovetail("convert", family.math, family.home / "other", "--quiet").code
    found = read((family.out, family.home / "other"))
    assert 9 == len(found.column(TENSORS, "tensor"))
    assert "other has no figures about changes of a base model" in found.text


def test_command(both: tuple[Path, Path]) -> None:
    """The command takes folders and manifests, and names the page after both."""
    page = both[0].parent / "page.html"
    manifests = [each / "dovetail_manifest.json" for each in both]
    outcome = dovetail("report", *manifests, "--html", page, "--json")
    assert 0 == outcome.code, outcome.err
    assert "out and other, side by side" in parse(page.read_text()).text


def test_damaged_manifests(both: tuple[Path, Path]) -> None:
    """A manifest that lacks something gives one line that names it."""
    path = both[1] / "dovetail_manifest.json"
    path.write_text(path.read_text().replace('"totals"', '"total"'))
    outcome = dovetail("report", *both, "--html", both[0].parent / "page.html")
    assert (5, 1) == (outcome.code, outcome.err.count("\n"))
    assert str(path) in outcome.err


def test_many_tensors_fit(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of two merges of 50,000 tensors is smaller than 6 MB, and says which figures it has no room for.

    Here it has a tenth of the tensors and of the room.
    """
    scripts = len(render(page_of_two(*both)))

    def grown(folder: Path) -> Any:
        manifest = read_manifest(folder)
        grow_manifest(manifest, models=4, tensors=5_000)
        return manifest

    monkeypatch.setattr("dovetail.engine.cli.report.page.kinds.read_manifest", grown)
    monkeypatch.setattr(fitting_columns, "__defaults__", (MOST_NUMBERS // 10,))
    html = render(page_of_two(*both))
    assert 6_000_000 > scripts + 10 * (len(html) - scripts)
    found = parse(html)
    assert 5_000 == len(found.column(TENSORS, "tensor"))
    assert (
        "of the columns from 'model-0: density, out' to 'model-3: norm kept, other minus out' the table has"
        in found.text
    )


def test_columns_that_fit() -> None:
    """Groups of columns are shown whole or not at all, the first ones first; empty groups are nothing."""
    groups = [[Column("a", [])], [], [Column("b", []), Column("c", [])], [], [Column("d", [])], []]
    for most, names in ((40, "abcd"), (39, "abc"), (29, "a"), (9, "")):
        shown, sentence = fitting_columns(groups, 10, most)
        assert list(names) == [column.name for column in shown]
        assert ("" if names == "abcd" else f"{'abcd'[len(names)]!r} to 'd'") in sentence
        assert (names == "abcd") == (sentence == "")


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        (["old/a", "old/m1/final", "old/m2/final"], ["new/m1/final", "new/m2/final"], []),
        (["old/a", "old/b"], ["new/b", "new/a"], [(0, 1), (1, 0)]),
        (["m1/final", "m2/final"], ["m2/final", "m1/final"], [(0, 1), (1, 0)]),
        (["a", "a"], ["a"], [(0, 0)]),
    ],
)
def test_models_are_paired(
    both: tuple[Path, Path], first: list[str], second: list[str], pairs: list[tuple[int, int]]
) -> None:
    """Models are the same by their whole names, else by their last parts, unless several models have these."""
    manifest = read_manifest(both[0])
    sides = [replace(side("A", manifest), manifest={**manifest, "models": names}) for names in (first, second)]
    assert pairs == list(find_shared(*sides).models)

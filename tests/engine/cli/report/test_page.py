"""Reports as web pages: their values, and that nothing from a checkpoint or a recipe becomes markup."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dovetail.engine import merge, read_manifest, search
from dovetail.engine.actions.conflicts import Conflicts
from dovetail.engine.cli.report.page import conflicts, layers
from dovetail.engine.cli.report.page import render as rendering
from dovetail.engine.cli.report.page.columns import MOST_NUMBERS, fitting_columns
from dovetail.engine.cli.report.page.kinds import page_of
from dovetail.engine.cli.report.page.parts import Column, Curves, Facts, HeatMap, Measure, Page, Section, Table, Text
from dovetail.engine.cli.report.page.render import render
from tests.engine.cli.report.pages import Parsed, expand, grow_manifest, hash_source, parse
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.modular.parents import make_parent
from tests.engine.searching.searches import history_of, in_memory, marked

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;<!--${1}{{ 7*7 }}]]>\u2028"
HARMLESS = "a name like no other word"
LAYERS = "By layer and kind of tensor"
TENSORS = "Every tensor of the output"


@pytest.fixture
def page(family: Family) -> Parsed:
    """Merge, and read the page of it."""
    merge(family.recipe_path, family.out)
    return parse(render(page_of(family.out)))


def _hostile() -> Page:
    column = Column(HOSTILE, [HOSTILE, None], choose=True)
    return Page(
        HOSTILE,
        {HOSTILE: HOSTILE},
        [HOSTILE],
        [
            Section(
                HOSTILE,
                [HOSTILE],
                [
                    Facts({HOSTILE: HOSTILE}),
                    Text(HOSTILE, HOSTILE),
                    HeatMap(HOSTILE, HOSTILE, [HOSTILE], HOSTILE, [HOSTILE], [Measure(HOSTILE, [[1.0]])]),
                    Curves(HOSTILE, HOSTILE, [HOSTILE], HOSTILE, {HOSTILE: [1.0]}),
                    Table(HOSTILE, [column], id=HOSTILE),
                ],
            )
        ],
        [HOSTILE],
    )


def test_names_are_text() -> None:
    """Whatever names and recipes hold, the page has its own tags and scripts alone, and shows them as they are."""
    plain = _hostile()
    found, harmless = parse(render(plain)), parse(render(_harmless(plain)))
    assert [tag for tag, _ in harmless.tags] == [tag for tag, _ in found.tags]
    assert [sorted(attributes) for _, attributes in harmless.tags] == [sorted(each) for _, each in found.tags]
    assert harmless.scripts[1:] == found.scripts[1:]
    assert harmless.text.replace(HARMLESS, HOSTILE) == found.text
    assert HOSTILE == found.drawn()[2]["columns"][0]["values"][0]


def _harmless(page: Any) -> Any:
    return eval(repr(page).replace(repr(HOSTILE), repr(HARMLESS)))  # dataclasses say how they are made


def test_a_page_asks_for_nothing(page: Parsed) -> None:
    """No tag refers to anything outside; the policy knows both scripts by their hashes and forbids all else."""
    references = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href", "action")
    ]
    assert all(value is not None and value.startswith(("#", "data:,")) for value in references)
    _, library, script = page.scripts
    assert {
        "default-src": "'none'",
        "script-src": f"{hash_source(script)} {hash_source(expand(library))}",
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    } == page.policy()
    assert "eval" not in script


def test_tensors(family: Family, page: Parsed) -> None:
    """The table has every tensor of the manifest with its figures, and its layer and kind."""
    tensors = read_manifest(family.out)["tensors"]
    assert list(tensors) == page.column(TENSORS, "tensor")
    for place, key in ((0, "math"), (1, "code")):
        for name, column in (("density", "density"), ("task_vector_norm", "norm"), ("kept_norm", "norm kept")):
            expected = [each["statistics"][name][place] for each in tensors.values()]
            assert expected == pytest.approx(page.column(TENSORS, f"{key}: {column}"), rel=1e-5)
    rows = dict(zip(tensors, page.column(TENSORS, "layer"), strict=True))
    kinds = dict(zip(tensors, page.column(TENSORS, "kind"), strict=True))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert ("0", "self_attn.q_proj.weight") == (rows[name], kinds[name])
    assert ("outside", "lm_head.weight") == (rows["lm_head.weight"], kinds["lm_head.weight"])


def test_heat_map(family: Family, page: Parsed) -> None:
    """Every cell has the figures of its tensors: norms as of one tensor, shares by elements."""
    tensors = read_manifest(family.out)["tensors"]
    drawn = page.part(LAYERS)
    measures = {each["name"]: each["values"] for each in drawn["measures"]}
    place = {name: (layer, kind) for name, layer, kind in _places(page)}
    for y, layer in enumerate(drawn["rows"]):
        for x, kind in enumerate(drawn["columns"]):
            own = [tensors[name]["statistics"] for name in tensors if place[name] == (layer, kind)]
            merged = measures["change of the base by the merge (norm)"][y][x]
            if not own:
                assert merged is None
                continue
            assert math.hypot(*(each["merged_norm"] for each in own)) == pytest.approx(merged, rel=1e-5)
            kept = math.hypot(*(each["kept_norm"][1] for each in own))
            assert kept == pytest.approx(measures["code: norm kept"][y][x], rel=1e-5)
            sizes = [math.prod(tensors[name]["shape"]) for name in tensors if place[name] == (layer, kind)]
            density = sum(each["kept"][0] for each in own) / sum(sizes)
            assert density == pytest.approx(measures["math: density"][y][x], rel=1e-5)


def _places(page: Parsed) -> list[tuple[str, str, str]]:
    return list(zip(*(page.column(TENSORS, name) for name in ("tensor", "layer", "kind")), strict=True))


def test_overlap_of_experts(family: Family) -> None:
    """The overlap of several tensors in one cell is that of all of their elements together."""
    from dovetail.engine.output.places import joint_overlap
    from dovetail.engine.output.tensor_table import tensor_table

    def entry(kept: list[int], both: int) -> dict[str, Any]:
        share = both / (sum(kept) - both)
        statistics = {"models": [0, 1], "kept": kept, "density": [0, 0], "overlap": [[1, share], [share, 1]]}
        norms = {"task_vector_norm": [1, 1], "kept_norm": [1, 1], "merged_norm": 1}
        found = statistics | norms | {"overflowed": 0, "nonfinite": [0, 0, 0]}
        return {"file": "f", "dtype": "F32", "shape": [100], "statistics": found}

    table = tensor_table(2, {"a": entry([10, 20], 5), "b": entry([40, 40], 40), "c": entry([7, 0], 0)})
    assert (5 + 40) / (25 + 40 + 7) == pytest.approx(joint_overlap(table, 0, 1))


@pytest.mark.parametrize("method", ["linear", "ties", "passthrough", "dare_ties", "model_stock"])
def test_methods(family: Family, method: str) -> None:
    """Every method has a page, with and without task vectors; the first figures name it."""
    models = [{"model": "math", "parameters": {"weight": 0.5}}, {"model": "code", "parameters": {"weight": 0.5}}]
    recipe: dict[str, Any] = {"merge_method": method, "models": models}
    if method in ("ties", "dare_ties", "model_stock"):
        recipe["base_model"] = "base"
    if method in ("ties", "dare_ties"):
        recipe["parameters"] = {"density": 0.5}
    if method == "passthrough":
        recipe = {"merge_method": method, "models": [{"model": "math"}]}
    family.recipe_path.write_text(yaml.safe_dump(recipe))
    outcome = dovetail("merge", family.recipe_path, family.out, "--report", family.home / "page.html", "--json")
    assert 0 == outcome.code, outcome.err
    assert "report" == outcome.events[-1]["event"]
    found = parse((family.home / "page.html").read_text())
    assert f"merged by {method}" in found.text
    assert 9 == len(found.column(TENSORS, "tensor"))
    assert "Peak memory" in found.text


def test_conversions(family: Family) -> None:
    """A conversion has a page too."""
    assert 0 == dovetail("convert", family.math, family.out, "--dtype", "float16", "--quiet").code
    found = parse(render(page_of(family.out)))
    assert 9 == len(found.column(TENSORS, "tensor"))
    assert "Conversion out" in found.text


@pytest.mark.parametrize(
    ("name", "kinds"), [("block{}.attention.weight", 1), ("whatever.{}.weight", 1), ("tensor{}.of{}", None)]
)
def test_names_without_layers(family: Family, monkeypatch: pytest.MonkeyPatch, name: str, kinds: int | None) -> None:
    """Names that tell no layer are taken together by how they end, or left to the table where they are too many."""
    merge(family.recipe_path, family.out)
    manifest = read_manifest(family.out)
    entry = next(iter(manifest["tensors"].values()))
    manifest["tensors"] = {name.format(i, i): entry for i in range(300)}
    monkeypatch.setattr("dovetail.engine.cli.report.page.kinds.read_manifest", lambda _: manifest)
    monkeypatch.setattr(layers, "MOST_CELLS", 299)
    found = parse(render(page_of(family.out)))
    if kinds is None:
        assert "There are too many kinds of tensors (300) for a heat map" in found.text
        assert LAYERS not in found.text
    else:
        assert kinds == len(found.part(LAYERS)["columns"])


def test_warnings(family: Family) -> None:
    """A model that is the base model, and one whose change is tiny beside another's, are named."""
    shutil.rmtree(family.code)
    shutil.copytree(family.base, family.code)
    merge(family.recipe_path, family.out)
    text = parse(render(page_of(family.out))).text
    assert "code does not differ from the base model: it gives nothing to the merge." in text
    assert "The merge keeps none" not in text


def test_modular_networks(tmp_path: Path) -> None:
    """Shares are counts over samples; kernels of a layer come class by class; what modules keep is counted."""
    make_parent(tmp_path / "net", "vgg")
    found = parse(render(page_of(tmp_path / "net")))
    from dovetail.engine.modular.network.counts import read_counts
    from dovetail.engine.modular.network.parent import read_parent

    counts = read_counts(read_parent(tmp_path / "net"))
    drawn = found.part("Which class uses which kernels")
    shares, kept = (each["values"] for each in drawn["measures"])
    assert sum(each.shape[1] for each in counts.counts.values()) == len(drawn["columns"])
    for x, name in enumerate(drawn["columns"]):
        layer, kernel = re.fullmatch(r"(.*), kernel (\d+)", name).groups()  # type: ignore[union-attr]
        expected = counts.counts[layer][:, int(kernel)] / counts.samples
        assert list(expected) == pytest.approx([row[x] for row in shares], rel=1e-5)
    sums = [sum(row) for row in kept]
    assert sums == found.column("Modules of one class", "kernels")
    lines = json.loads(dovetail("modules", "inspect", tmp_path / "net", "--json").out)
    assert list(lines["layers"].values()) == found.column("Masked layers", "kernels")
    for layer, first in drawn["groups"]:
        own = [row[first : first + lines["layers"][layer]] for row in shares]
        strongest = [max(range(len(own)), key=lambda row, x=x: own[row][x]) for x in range(len(own[0]))]  # type: ignore[misc]
        assert sorted(strongest) == strongest


def test_many_tensors_fit(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of 50,000 tensors is smaller than 6 MB; here it has a tenth of the tensors and of the room."""
    merge(family.recipe_path, family.out)
    scripts = len(render(page_of(family.out)))
    manifest = read_manifest(family.out)
    grow_manifest(manifest, models=3, tensors=5_000)
    monkeypatch.setattr("dovetail.engine.cli.report.page.kinds.read_manifest", lambda _: manifest)
    monkeypatch.setattr(fitting_columns, "__defaults__", (MOST_NUMBERS // 10,))
    monkeypatch.setattr(conflicts, "_MOST_NUMBERS", conflicts._MOST_NUMBERS // 10)
    draw = np.random.default_rng(0).random
    wanted, lost = draw((5_000, 3)), draw((5_000, 3, 3))
    found = Conflicts(tuple(manifest["tensors"]), wanted, wanted, lost, lost, 0)  # type: ignore[arg-type]
    html = render(page_of(family.out, None, found))
    assert 6_000_000 > scripts + 10 * (len(html) - scripts)
    assert 3 == len(parse(html).part(LAYERS)["columns"])


def test_files_that_are_there(family: Family) -> None:
    """An older page is replaced; another file only if that is asked for; folders never; nothing is merged before."""
    target = family.home / "page.html"
    target.write_text("a letter")
    outcome = dovetail("merge", family.recipe_path, family.out, "--report", target)
    assert 5 == outcome.code
    assert "is there already and is no report; expected a new file, or an older report; pass --overwrite" in outcome.err
    assert not family.out.exists()
    merge(family.recipe_path, family.out)
    assert 0 == dovetail("report", family.out, "--html", target, "--overwrite").code
    assert 0 == dovetail("report", family.out, "--html", target).code
    assert 5 == dovetail("report", family.out, "--html", family.home).code
    assert 5 == dovetail("report", family.out, "--html", family.home / "no" / "page.html").code
    assert 3 == dovetail("report", family.base, "--html", target).code


def test_without_the_extra(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named, with what installs it, before anything is merged."""
    monkeypatch.setattr(rendering, "_PACKAGES", ("no_such_package",))
    outcome = dovetail("merge", family.recipe_path, family.out, "--report", family.home / "page.html")
    assert "pip install 'dovetail[report]'" in outcome.err
    assert not family.out.exists()


def test_damaged_manifests(family: Family) -> None:
    """A manifest that lacks something gives one line."""
    merge(family.recipe_path, family.out)
    path = family.out / "dovetail_manifest.json"
    path.write_text(path.read_text().replace('"totals"', '"total"'))
    outcome = dovetail("report", family.out, "--html", family.home / "page.html")
    assert 5 == outcome.code
    assert 1 == outcome.err.count("\n")


def test_searches(family: Family) -> None:
    """The page of a search has every candidate with its values, the best so far, results by task, and failures."""
    given = iter(range(100))

    def evaluate(tensors: Any) -> Any:
        number = next(given)
        if number == 3:
            raise ValueError("no <score> today")
        return {"math": 1 + (number - 5) ** 2 / 100, "code": 2 - number / 100}

    options = in_memory(budget=8, optimizer="random", objective="loss")
    search(marked(family), evaluate, family.out, options)
    history = json.loads(history_of(family.out))
    found = parse(render(page_of(family.out)))
    costs = [each["cost"] for each in history["candidates"]]
    shown = found.column("All candidates", "cost")
    assert [None if cost is None else float(f"{cost:.6g}") for cost in costs] == shown
    for name in (each["name"] for each in history["searched"]):
        expected = [each["values"][name] for each in history["candidates"]]
        assert expected == pytest.approx(found.column("All candidates", name), rel=1e-5)
        scored = sorted((each["values"][name], each["cost"]) for each in history["candidates"] if not each["failure"])
        drawn = found.part(name)
        assert [place for place, _ in scored] == pytest.approx(drawn["positions"], rel=1e-5)
        assert [cost for _, cost in scored] == pytest.approx(drawn["curves"]["candidate"], rel=1e-5)
    best = [min(cost for cost in costs[: count + 1] if cost is not None) for count in range(len(costs))]
    assert best == pytest.approx(found.part("Cost")["curves"]["best so far"], rel=1e-5)
    assert {"math", "code"} == set(found.part("Results by task")["curves"])
    assert None is found.part("Results by task")["curves"]["math"][3]
    assert "1 candidate could not be scored, the first of them because: " in found.text
    assert "no <score> today" in found.text


def test_damaged_histories(family: Family) -> None:
    """A history that is none gives one line."""
    family.out.mkdir()
    for text in ("[]", "{", '{"format": "dovetail-search"}', '{"format": 3}', '"x"'):
        (family.out / "history.json").write_text(text)
        outcome = dovetail("report", family.out, "--html", family.home / "page.html")
        assert 5 == outcome.code
        assert outcome.err.startswith(f"error: {family.out / 'history.json'} cannot be used (")
        assert 1 == outcome.err.count("\n")

"""Pages of analyses: what they show, and in a real browser that every control works and nothing is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.actions.analysis import Analysis
from dovetail.engine.actions.analyze import analyze
from dovetail.engine.cli.report.page.analysis_page import analysis_page
from dovetail.engine.cli.report.page.render import render, write_page
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.cli.report.browsing import CHROMIUM, NO_CHROMIUM, Shown
from tests.engine.cli.report.pages import Parsed, hash_source, parse

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Analyse three models, one of them of another base, with names that would be markup."""
    home, base = tmp_path_factory.mktemp("analysis"), llama_tensors(0)
    base = {**base, "ids": base["model.norm.weight"].view("int16")}
    write_checkpoint(home / "base", base)
    tuned = [llama_tensors(seed, base) | {"ids": base["ids"]} for seed in (1, 2)]
    tuned = [{name: each[name] for name in base} for each in tuned]
    other = {**llama_tensors(9), "ids": base["ids"]}
    models = {"math": tuned[0], HOSTILE: tuned[1], "other": other}
    return analyze([str(write_checkpoint(home / name, each)) for name, each in models.items()], str(home / "base"))


@pytest.fixture(scope="module")
def page(found: Analysis) -> Parsed:
    """Give the page."""
    return parse(render(analysis_page(found.to_json())))


def test_figures_are_those_of_the_analysis(found: Analysis, page: Parsed) -> None:
    """Tables, heat maps and curves show what the analysis has, as far as a reader can see digits."""
    models, pairs = found.total.models, found.total.pairs
    assert ["math", HOSTILE, "other"] == page.column("What every model changed", "model")
    assert [pytest.approx(each.norm, rel=1e-5) for each in models] == page.column(
        "What every model changed", "change (norm)"
    )
    assert [pytest.approx(each.cosine, rel=1e-5) for each in pairs] == page.column("Every pair of models", "cosine")
    heat = page.part("By layer and kind of tensor")
    (measure,) = [each for each in heat["measures"] if each["name"] == "math: change, % of the base's norm"]
    for row, layer in zip(measure["values"], heat["rows"], strict=True):
        for value, kind in zip(row, heat["columns"], strict=True):
            cell = found.cells.get((layer, kind))
            assert (None if cell is None else pytest.approx(100 * cell.models[0].relative_norm, rel=1e-5)) == value
    curves = page.part("Change by layer")
    assert [pytest.approx(100 * each.models[2].relative_norm, rel=1e-5) for each in found.layers.values()] == curves[
        "curves"
    ]["other"]
    assert [each.name for each in found.tensors] == page.column("Every tensor", "tensor")
    square = page.part("Models against models")["measures"][0]["values"]
    assert square[0][2] == square[2][0] == pytest.approx(pairs[1].cosine, rel=1e-5)


def test_what_stands_out_is_said_and_is_text(found: Analysis, page: Parsed) -> None:
    """Cautions stand at the top; markup in names is text; nothing but the page's own scripts may run."""
    assert found.cautions[0].text.startswith("other is no fine-tune of base")
    for each in found.cautions:
        assert each.text in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    policy = page.policy()
    assert "'none'" == policy["default-src"]
    assert hash_source(page.scripts[-1]) in policy["script-src"]


def test_one_model_and_none_of_a_kind(tmp_path: Path) -> None:
    """A single model has a page without pairs; a tensor that it lacks has empty cells."""
    base = llama_tensors(0)
    tuned = {name: each for name, each in llama_tensors(1, base).items() if name != "model.norm.weight"}
    paths = [str(write_checkpoint(tmp_path / name, each)) for name, each in (("base", base), ("math", tuned))]
    page = parse(render(analysis_page(analyze([paths[1]], paths[0]).to_json())))
    assert "Pairs" not in page.text
    assert "model.norm.weight" not in page.column("Every tensor", "tensor")


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_in_a_browser(browser: Any, found: Analysis, tmp_path: Path, width: int, scheme: str) -> None:
    """Every choice draws, a click on a cell shows its tensors, tables sort, and the page fits the window."""
    write_page(analysis_page(found.to_json()), tmp_path / "page.html")
    shown = Shown(browser, tmp_path / "page.html", width, scheme)
    for title in ("Models against models", "By layer and kind of tensor"):
        figure = shown.figure(title)
        colours, seen = figure.get_by_label("Colour", exact=True), set[str]()
        for name in colours.locator("option").all_inner_texts():
            colours.select_option(name)
            seen.add(figure.locator("svg").first.inner_html())
        assert len(seen) > 1
    layer = shown.click_first_cell(figure, "Every tensor")
    assert {layer.locator("option:checked").inner_text()} == set(shown.cells("Every tensor", 1))
    layer.select_option("all")
    shown.figure("Every tensor").get_by_role("button", name="elements", exact=True).click()
    assert 1 == shown.figure("Every tensor").locator("th[aria-sort=descending]").count()
    assert width >= shown.page.evaluate("document.documentElement.scrollWidth")
    shown.end()

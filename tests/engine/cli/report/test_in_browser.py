"""Reports in a real browser: they load without errors, ask for nothing, and every control works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge
from dovetail.engine.actions.conflicts import conflicts
from dovetail.engine.cli.report.page.kinds import page_of, page_of_two
from dovetail.engine.cli.report.page.render import write_page
from dovetail.engine.run.prepare import RunOptions
from tests.engine.cli.report.browsing import CHROMIUM, NO_CHROMIUM, Shown
from tests.engine.cli.report.test_page import _hostile
from tests.engine.conftest import Family
from tests.engine.modular.parents import make_parent

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture
def merged(family: Family) -> Path:
    """Give the page of a merge."""
    merge(family.recipe_path, family.out)
    write_page(page_of(family.out), family.home / "page.html")
    return family.home / "page.html"


def test_tables(browser: Any, merged: Path) -> None:
    """Rows are filtered by text and by lists, sorted by a click on a heading, up and down, and copied."""
    shown = Shown(browser, merged)
    table = shown.figure("Every tensor of the output")
    table.get_by_label("kind", exact=True).select_option("self_attn.q_proj.weight")
    assert {"self_attn.q_proj.weight"} == set(shown.cells("Every tensor of the output", 2))
    table.get_by_label("kind", exact=True).select_option("all")
    table.get_by_label("Filter", exact=True).fill("NORM")
    names = shown.cells("Every tensor of the output", 0)
    assert names
    assert all("norm" in name for name in names)
    table.get_by_label("Filter", exact=True).fill("")
    for direction, reverse in (("descending", True), ("ascending", False)):
        table.get_by_role("button", name="elements").click()
        assert 1 == table.locator(f"th[aria-sort={direction}]").count()
        numbers = [int(text.replace(",", "")) for text in shown.cells("Every tensor of the output", 5)]
        assert sorted(numbers, reverse=reverse) == numbers
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    table.get_by_role("button", name="Copy").click()
    table.get_by_role("button", name="Copied").wait_for()
    copied = shown.page.evaluate("navigator.clipboard.readText()").split("\n")
    assert ["tensor", "layer", "kind"] == copied[0].split("\t")[:3]
    assert 1 + 9 == len(copied)
    shown.end()


def test_heat_maps(browser: Any, merged: Path) -> None:
    """Colours can be chosen, cells be read as a table, and a click on a cell shows its tensors."""
    shown = Shown(browser, merged)
    figure = shown.figure("By layer and kind of tensor")
    before = figure.locator("svg image").first.get_attribute("xlink:href") or figure.locator("svg").first.inner_html()
    figure.get_by_label("Colour", exact=True).select_option("math: density")
    after = figure.locator("svg image").first.get_attribute("xlink:href") or figure.locator("svg").first.inner_html()
    assert before != after
    figure.get_by_role("button", name="As a table").click()
    assert figure.locator("tbody tr").count() > 1
    assert not figure.locator(".plot").is_visible()
    figure.get_by_role("button", name="As a table").click()
    layers = shown.click_first_cell(figure, "Every tensor of the output")
    assert {layers.locator("option:checked").inner_text()} == set(shown.cells("Every tensor of the output", 1))
    shown.end()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_themes_and_widths(browser: Any, merged: Path, width: int, scheme: str) -> None:
    """The page begins in the theme of the reader's system, changes it at a click, and is no wider than the window."""
    shown = Shown(browser, merged, width, scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    assert scheme == shown.page.evaluate("document.documentElement.dataset.theme")
    shown.page.get_by_role("button", name=other.capitalize(), exact=True).click()
    assert other == shown.page.evaluate("document.documentElement.dataset.theme")
    assert width >= shown.page.evaluate("document.documentElement.scrollWidth")
    shown.end()


def test_keyboard(browser: Any, merged: Path) -> None:
    """Tab reaches every control, and Enter works on it."""
    shown = Shown(browser, merged)
    shown.page.keyboard.press("Tab")
    assert "Skip to the content" == shown.page.evaluate("document.activeElement.textContent")
    shown.page.keyboard.press("Tab")
    shown.page.keyboard.press("Enter")
    assert "dark" == shown.page.evaluate("document.documentElement.dataset.theme")
    wanted = shown.page.evaluate("document.querySelectorAll('button:not([hidden]), select, input, a').length")
    reached = shown.page.evaluate(
        "[...document.querySelectorAll('button:not([hidden]), select, input, a')].filter(e => e.tabIndex >= 0).length"
    )
    assert wanted == reached
    shown.end()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_two_merges(browser: Any, family: Family, width: int, scheme: str) -> None:
    """Differences have colours both ways from nothing; every choice draws, and a click on a cell shows its tensors."""
    merge(family.recipe_path, family.out)
    merge(family.recipe(parameters={"n": 1, "m": 8, "weight": 0.8}), family.home / "other")
    write_page(page_of_two(family.out, family.home / "other"), family.home / "page.html")
    shown = Shown(browser, family.home / "page.html", width, scheme)
    figure = shown.figure("Differences by layer and kind of tensor")
    scale = "[...document.querySelectorAll('.js-plotly-plot')][0]._fullData[0]"
    colours = figure.get_by_label("Colour", exact=True)
    for name in colours.locator("option").all_inner_texts():
        colours.select_option(name)
        low, high = shown.page.evaluate(f"[{scale}.zmin, {scale}.zmax]")
        assert (-high == low) == ("(norm)" not in name or name == "change of the base (norm)"), name
    shown.click_first_cell(figure, "Every tensor of both")
    assert {"differ"} == set(shown.cells("Every tensor of both", 4))
    assert width >= shown.page.evaluate("document.documentElement.scrollWidth")
    shown.end()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_conflicts(browser: Any, family: Family, width: int, scheme: str) -> None:
    """The section about conflicts draws, and a click on a cell of its heat map filters its own table."""
    merge(family.recipe_path, family.out)
    found = conflicts(family.out, RunOptions(workers=1))
    write_page(page_of(family.out, None, found), family.home / "page.html")
    shown = Shown(browser, family.home / "page.html", width, scheme)
    figure = shown.figure("Changes lost, by layer and kind of tensor")
    shown.click_first_cell(figure, "Changes lost, in every tensor")
    assert 1 == len(shown.cells("Changes lost, in every tensor", 0))
    assert 9 == len(shown.cells("Every tensor of the output", 0))
    assert width >= shown.page.evaluate("document.documentElement.scrollWidth")
    shown.end()


def test_modular_networks(browser: Any, tmp_path: Path) -> None:
    """The page of a network draws its heat maps."""
    make_parent(tmp_path / "net", "vgg")
    write_page(page_of(tmp_path / "net"), tmp_path / "page.html")
    shown = Shown(browser, tmp_path / "page.html")
    assert shown.figure("Which class uses which kernels").locator("svg").count()
    shown.end()


def test_hostile_names(browser: Any, tmp_path: Path) -> None:
    """Names with markup are shown, not run: in headings, tables, pictures and what hovers over them."""
    write_page(_hostile(), tmp_path / "page.html")
    shown = Shown(browser, tmp_path / "page.html")
    shown.page.on("dialog", lambda dialog: shown.complaints.append(dialog.message))
    shown.page.locator(".nsewdrag").first.scroll_into_view_if_needed()
    area = shown.page.locator(".nsewdrag").first.bounding_box()
    shown.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    shown.page.locator(".hoverlayer text").first.wait_for()
    assert 0 == shown.page.locator("img, a[href^=javascript]").count()
    shown.end()

"""Pages of reports in a headless Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

NO_CHROMIUM = "there is no Chromium; apt-get install chromium brings one"

TIMEOUT_MS = 120_000
"""Long enough for any machine."""


class Shown:
    """A page in the browser.

    Parameters
    ----------
    browser
        The browser.
    path
        The page.
    width
        Of the window, in pixels.
    scheme
        What the reader's system prefers: light or dark.

    """

    def __init__(self, browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(TIMEOUT_MS)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")
        assert [path.as_uri()] == self.asked

    def figure(self, title: str) -> Any:
        """Give the picture or table of a title."""
        caption = self.page.get_by_text(title, exact=True)
        return self.page.locator("figure").filter(has=caption)

    def cells(self, title: str, column: int) -> list[str]:
        """Give the texts of a column of a table, from the top."""
        texts: list[str] = self.figure(title).locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
        return texts

    def click_first_cell(self, figure: Any, table: str) -> Any:
        """Click on a heat map's first row, and give the list of layers by which a table is filtered then."""
        area = figure.locator(".nsewdrag").first
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / (2 * figure.locator("g.ytick").count()))
        self.page.mouse.move(*place)
        self.page.mouse.click(*place)
        layers = self.figure(table).get_by_label("layer", exact=True)
        self.page.wait_for_function("select => select.value !== '0'", arg=layers.element_handle())
        return layers

    def end(self) -> None:
        """Make sure that nothing was asked for, and nothing went wrong."""
        assert [] == self.complaints
        assert 1 == len(self.asked)
        self.page.context.close()

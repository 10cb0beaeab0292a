"""Drawing as SVG: shapes and texts in fixed places, so that the same figures give the same bytes on every machine."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree

INK: Final = "#1b1f24"
"""Colour of texts, on white whatever the page around is."""

_FONT: Final = "system-ui, sans-serif"


class Drawing:
    """A picture on white.

    Parameters
    ----------
    width, height
        Size in pixels.
    title
        What it shows, for readers who do not see it.

    """

    def __init__(self, width: float, height: float, title: str) -> None:
        size = {"width": _number(width), "height": _number(height)}
        box = f"0 0 {_number(width)} {_number(height)}"
        named = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "role": "img", "font-family": _FONT}
        self.root = ElementTree.Element("svg", {**named, **size})
        ElementTree.SubElement(self.root, "title").text = _visible(title)
        self.box(0, 0, width, height, "#ffffff")

    def box(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Fill a rectangle."""
        edges = {"x": left, "y": top, "width": width, "height": height}
        ElementTree.SubElement(self.root, "rect", {name: _number(at) for name, at in edges.items()} | {"fill": color})

    def text(self, left: float, top: float, text: str, *, anchor: str = "start", size: int = 12, turn: int = 0) -> None:
        """Write a text.

        Parameters
        ----------
        left, top
            Where its anchor is, on the line that letters stand on.
        text
            The text.
        anchor
            Which part of it is there: ``start``, ``middle`` or ``end``.
        size
            In pixels.
        turn
            Degrees by which it is turned clockwise about its anchor.

        """
        place = {"x": _number(left), "y": _number(top), "text-anchor": anchor, "font-size": str(size), "fill": INK}
        if turn:
            place["transform"] = f"rotate({turn} {_number(left)} {_number(top)})"
        ElementTree.SubElement(self.root, "text", place).text = _visible(text)

    def to_bytes(self) -> bytes:
        """Give the file."""
        text: str = ElementTree.tostring(self.root, encoding="unicode")
        return f"{text}\n".encode()


def cut(text: str, longest: int) -> str:
    """Shorten a name to so many letters; the end tells more than the middle."""
    begin = (longest - 1) // 3
    return text if len(text) <= longest else f"{text[:begin]}…{text[begin + 1 - longest :]}"


def _visible(text: str) -> str:
    """Replace letters that XML has no way to write, and others that cannot be seen."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")

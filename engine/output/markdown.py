"""Text in Markdown that stays text: names and recipes may hold whatever their authors please."""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9]+(?:[ ._+-]+[A-Za-z0-9]+)*")
"""Names in which nothing can be markup."""

_MARKUP: Final = re.compile(r"[\\`*\[\]<>#|~$&]|(?<=[a-z]):(?=//)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What would be markup in a sentence, or make a link of it."""


def code(text: str) -> str:
    """Write a name as a code span, in which nothing is markup.

    Line breaks become blanks, because an empty line would end the span; so do other letters that cannot be seen.
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    ticks = "`" * (_longest(shown) + 1)
    room = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{ticks}{room}{shown or ' '}{room}{ticks}"


def cell(text: str) -> str:
    """Write a name as a code span in a table, where a bar would begin the next cell."""
    return code(text).replace("|", "\\|")


def heading(text: str) -> str:
    """Write a name in a heading: as a code span, unless nothing in it can be markup."""
    return text if _PLAIN.fullmatch(text) else code(text)


def sentence(text: str) -> str:
    """Write a sentence with names in it, whose letters that could be markup are escaped."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return _MARKUP.sub(lambda found: f"\\{found[0]}", shown)


def block(text: str, language: str) -> list[str]:
    """Write a text as a fenced block, line by line, which no line of the text can end."""
    ticks = "`" * max(3, _longest(text) + 1)
    return [f"{ticks}{language}", text, ticks]


def _longest(text: str) -> int:
    """Length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)

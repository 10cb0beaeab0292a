"""Objects in a few lines, for who looks at them in Python: names and values, as text and as a table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_LONGEST = 80
"""Most characters of a name or a sentence."""

_MOST_NAMES = 6
"""Names that are listed."""


def cut(text: str) -> str:
    """Cut a long text."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def listed(names: Sequence[str]) -> str:
    """List the first of some names, and say how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(map(cut, names[:_MOST_NAMES])) + (f" and {more:,} more" if more > 0 else "")


def facts_text(title: str, rows: Mapping[str, str]) -> str:
    """Write facts below a title, names in one column and values in another."""
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def facts_html(title: str, rows: Mapping[str, str]) -> str:
    """Write facts as a table for notebooks."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"

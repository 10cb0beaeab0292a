"""Printing tables and sentences for people, to a terminal or a pipe.

On a terminal, lines end at its width, and what is longer goes on in the next line. In a pipe nothing is wrapped, so
that one row is one line for programs, unless ``COLUMNS`` gives a width. No line ends in blanks.
"""

from __future__ import annotations

import os
import textwrap

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_ENDLESS = 100_000
"""Columns of a line where nothing is wrapped."""

_INDENT = 4
"""By how many more columns the continuation of a sentence is indented."""


_GAP = 2
"""Blanks between two columns of a table."""

_LEAST_FOLDED = 8
"""Columns of a folded text at the least."""


def line_width() -> int | None:
    """Give the columns of a line; None where lines may have any length."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    console = Console()
    return console.width if console.is_terminal else None


def new_table(*titles: str, texts: int = 1) -> Table:
    """Make a table whose texts are folded where the line is too short; numbers stay whole.

    Parameters
    ----------
    titles
        Titles of the columns.
    texts
        How many columns, counted from the left, hold texts; the others hold numbers, which stand at the right.

    """
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(titles):
        text = index < texts
        table.add_column(title, overflow="fold", justify="left" if text else "right", no_wrap=not text)
    return table


def new_grid(*widths: int | None) -> Table:
    """Make a table without titles, with two blanks between its columns of the given greatest widths."""
    table = Table.grid(padding=(0, _GAP))
    for width in widths:
        table.add_column(overflow="fold", max_width=width)
    return table


def show(*things: str | Table, indent: int = 0) -> None:
    """Print sentences, and tables that are indented by a number of columns."""
    width = line_width()
    for thing in things:
        if isinstance(thing, str):
            print(thing if width is None else _wrapped(thing, width))
            continue
        room = _ENDLESS if width is None else max(width - indent, _least_width(thing))
        console = Console(highlight=False, width=room)
        with console.capture() as captured:
            console.print(thing)
        for line in captured.get().splitlines():
            print((indent * " " + line).rstrip())


def _least_width(table: Table) -> int:
    """Give the columns in which nothing of a table is cut off."""
    cells = [(column.no_wrap, (column.header, *column.cells)) for column in table.columns]
    whole = [max(cell_len(str(cell)) for cell in column) for no_wrap, column in cells if no_wrap]
    return sum(whole) + (len(cells) - len(whole)) * _LEAST_FOLDED + (len(cells) - 1) * _GAP


def _wrapped(sentence: str, width: int) -> str:
    """Break a sentence between words; a word that is longer than a line, such as a path, stays whole."""
    indent = len(sentence) - len(sentence.lstrip()) + _INDENT
    return textwrap.fill(
        sentence,
        max(width, indent + 1),
        subsequent_indent=indent * " ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )

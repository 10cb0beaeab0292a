"""Printing tables and sentences for people, to a terminal or a pipe."""

from __future__ import annotations

from typing import Any

from rich.console import Console

PIPE_WIDTH = 200
"""Columns of a line where there is no terminal."""


def show(*things: Any) -> None:
    """Print texts and tables without wrapping or colouring them; in a pipe, tables may be `PIPE_WIDTH` columns wide."""
    width = None if Console().is_terminal else PIPE_WIDTH
    Console(highlight=False, width=width, soft_wrap=True).print(*things, markup=False)

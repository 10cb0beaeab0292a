"""The columns that tables of tensors have of every model, as many as a page has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dovetail.engine.cli.report.page.parts import Column
from dovetail.engine.output.places import Places

MOST_NUMBERS: Final = 600_000
"""Numbers of the models in a table of tensors, with which a page is smaller than 6 MB."""

MOST_CHOICES: Final = 500
"""Kinds of tensors up to which a reader can choose from a list of them."""


def fitting_columns(
    groups: Sequence[Sequence[Column]], tensors: int, most: int = MOST_NUMBERS
) -> tuple[list[Column], str]:
    """Take the columns that a page has room for.

    Parameters
    ----------
    groups
        Columns that are shown together or not at all, in the order of what they tell.
    tensors
        Number of rows.
    most
        Numbers for which there is room.

    Returns
    -------
    list of Column, str
        The columns, and a sentence that names those that are left out; empty if none is.

    """
    groups, shown = [group for group in groups if group], list[Column]()
    for index, group in enumerate(groups):
        if (len(shown) + len(group)) * tensors > most:
            first, last = groups[index][0].name, groups[-1][-1].name
            return shown, (
                f"The page has no room for all figures of {tensors:,} tensors: of the columns from {first!r} to "
                f"{last!r} the table has none."
            )
        shown += group
    return shown, ""


def place_columns(names: Sequence[str], places: Places) -> list[Column]:
    """Give the columns with the names of tensors and their places, by which a heat map filters."""
    return [
        Column("tensor", list(names)),
        Column("layer", places.layer, choose=True),
        Column("kind", places.kind, choose=len(places.kinds) <= MOST_CHOICES),
    ]


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape."""
    return " x ".join(map(str, shape))

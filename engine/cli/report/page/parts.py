"""What a page is made of: sections of sentences, facts, heat maps, curves and tables. All of it is text and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Number = float | int | None
"""A value of a picture or of a table; None where there is none."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with their values, in two columns."""

    rows: Mapping[str, str]
    """Value of each name."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it stands, such as a recipe."""

    text: str
    """The text."""
    title: str = ""
    """Of what it is, where that is not plain from the section."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to colour a heat map."""

    name: str
    """What the colours mean."""
    values: Sequence[Sequence[Number]]
    """One row for each name at the left, of one value for each name at the bottom."""
    percent: bool = False
    """Whether values from 0 to 1 are written as percentages."""
    whole: bool = False
    """Whether the colours go from 0 to 1, whatever the values."""
    signed: bool = False
    """Whether values are differences: the colours then go both ways from 0."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Coloured cells; where there are several measures, the reader chooses."""

    title: str
    """What is shown."""
    across: str
    """What stands at the bottom."""
    columns: Sequence[str]
    """Names at the bottom."""
    down: str
    """What stands at the left."""
    rows: Sequence[str]
    """Names at the left, from the top."""
    measures: Sequence[Measure]
    """At least one."""
    table: str | None = None
    """Id of a table that a click on a cell is to filter, by its columns of the names of `down` and `across`."""
    groups: Mapping[str, int] | None = None
    """First column of each group of columns, by name, where these are to be named in place of the single columns."""

    def to_json(self) -> dict[str, Any]:
        """Give what the page's script draws."""
        return {
            "kind": "heatmap",
            "groups": None if self.groups is None else list(self.groups.items()),
            "title": self.title,
            "across": self.across,
            "columns": list(self.columns),
            "down": self.down,
            "rows": list(self.rows),
            "table": self.table,
            "measures": [
                {
                    "name": each.name,
                    "values": [list(row) for row in each.values],
                    "percent": each.percent,
                    "whole": each.whole,
                    "signed": each.signed,
                }
                for each in self.measures
            ],
        }


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves over a common axis."""

    title: str
    """What is shown."""
    across: str
    """What stands at the bottom."""
    positions: Sequence[str | float]
    """Where the points are."""
    down: str
    """What stands at the left."""
    curves: Mapping[str, Sequence[Number]]
    """Heights by name."""
    percent: bool = False
    """Whether heights from 0 to 1 are written as percentages."""
    points: bool = False
    """Whether points stand alone, without a line from each to the next."""

    def to_json(self) -> dict[str, Any]:
        """Give what the page's script draws."""
        return {
            "kind": "curves",
            "title": self.title,
            "across": self.across,
            "positions": list(self.positions),
            "down": self.down,
            "curves": {name: list(each) for name, each in self.curves.items()},
            "percent": self.percent,
            "points": self.points,
        }


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    """Its title."""
    values: Sequence[Any]
    """One text or number for each row."""
    percent: bool = False
    """Whether numbers from 0 to 1 are written as percentages."""
    choose: bool = False
    """Whether the reader can choose rows by it from a list of its values."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be sorted, filtered and copied."""

    title: str
    """What is shown."""
    columns: Sequence[Column]
    """At least one."""
    id: str | None = None
    """Name by which heat maps filter it."""

    def to_json(self) -> dict[str, Any]:
        """Give what the page's script shows."""
        return {
            "kind": "table",
            "title": self.title,
            "id": self.id,
            "columns": [
                {"name": each.name, "values": list(each.values), "percent": each.percent, "choose": each.choose}
                for each in self.columns
            ],
        }


Part = Facts | Text | HeatMap | Curves | Table
"""What a section can hold."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under a heading of its own."""

    heading: str
    """The heading."""
    sentences: Sequence[str] = ()
    """What is to be known of it, and how it is to be read."""
    parts: Sequence[Part] = ()
    """What it shows."""


@dataclass(frozen=True, slots=True)
class Page:
    """A report."""

    title: str
    """Of what."""
    summary: Mapping[str, str]
    """The figures that a reader looks for first, with their names."""
    warnings: Sequence[str] = ()
    """What is to be looked at, and what to do, in whole sentences."""
    sections: Sequence[Section] = field(default_factory=tuple)
    """The rest, in order."""
    lead: Sequence[str] = ()
    """What this is, in sentences before all else."""

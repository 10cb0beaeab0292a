"""Merges in parts, for tests: making parts, and what a merge in one piece gives in their place."""

from __future__ import annotations

from typing import Any

from dovetail.engine import RunOptions, events, merge, read_manifest
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.engine.conftest import Family
from tests.engine.outputs import contents

ZARR = PlanOptions(ZarrFormat())
"""A Zarr group as the output."""


def make(
    family: Family, part: str | None, options: PlanOptions | None = None, listen: Any = None, **run: Any
) -> list[events.Event]:
    """Make a part of the family's merge; give what was told."""
    seen: list[events.Event] = []

    def hear(event: events.Event) -> None:
        seen.append(event)
        if listen is not None:
            listen(event)

    merge(family.recipe_path, family.out, options, RunOptions(part=part, workers=2, **run), hear)
    return seen


def make_all(family: Family, count: int, options: PlanOptions | None = None) -> None:
    """Make all parts, one after another."""
    for number in range(1, count + 1):
        make(family, f"{number}/{count}", options)


def in_one_piece(family: Family, options: PlanOptions | None = None) -> dict[str, bytes | None]:
    """Make in one piece what the parts have made, with shards of the same size; give the files."""
    options = options or PlanOptions()
    if options.format.shard_limit_bytes is not None:
        options = PlanOptions(SafetensorsFormat(read_manifest(family.out)["options"]["shard_size_bytes"]))
    merge(family.recipe_path, family.home / "one-piece", options)
    return contents(family.home / "one-piece")


def told(seen: list[events.Event]) -> list[str]:
    """Give the texts of notices about parts."""
    return [event.text for event in seen if isinstance(event, events.Notice) and "art" in event.text.split()[0]]

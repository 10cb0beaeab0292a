"""How errors speak of places and values in a recipe, and which valid name they suggest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Where = tuple[str | int, ...]
"""Keys and list positions that lead from the top of a recipe to a value."""

_SHOWN = 60
"""Longest piece of a recipe quoted in an error, in characters."""
_SHOWN_NAME = 250
"""The same for paths and names of tensors."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A key of a recipe that has no effect."""

    where: Where
    """Its place."""
    what: str
    """What is wrong with it, with its key path."""
    hint: str
    """What was probably meant; empty if nobody can know."""
    fate: str
    """What becomes of it, where there is no hint."""
    stays: bool
    """Whether the recipe keeps it, as one that is known, rather than be read as if it were not there."""


def key_path(where: Where) -> str:
    """Write a place as people do: ``models[1].parameters.weight``; what could control a terminal is escaped."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if len(part) <= _SHOWN else part[:_SHOWN] + "...")
    return (text if text.isprintable() else text.encode("unicode_escape").decode()) or "the recipe"


def shown(value: object) -> str:
    """Quote a value from a recipe, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    text, most = repr(value), _SHOWN_NAME if isinstance(value, str) else _SHOWN
    return text if len(text) <= most else text[:most] + "..."


def one_of(choices: Iterable[str]) -> str:
    """List the valid values, for the "expected" part of an error; the word "nothing" where there are none."""
    names = list(choices)
    return f"one of {', '.join(names)}" if len(names) > 1 else "".join(names) or "nothing"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Ask whether the nearest valid name was meant; empty if none is near."""
    # Similarity takes quadratic time: a name this long is no slip of the finger.
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5) if len(name) <= _SHOWN else []
    return f"did you mean {matches[0]!r}?" if matches else ""

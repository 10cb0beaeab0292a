"""The table of methods. A new method is one file and one entry here."""

from __future__ import annotations

import difflib
from typing import Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.cabs import CABS
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.linear import LINEAR
from dovetail.engine.methods.table import Method
from dovetail.engine.methods.task_arithmetic import TASK_ARITHMETIC

METHODS: Final[dict[str, Method]] = {row.name: row for row in (CABS, TASK_ARITHMETIC, LINEAR)}
"""Every method by its name."""


def find(name: str) -> Method:
    """Give the row of a method.

    Raises
    ------
    RecipeError
        There is no such method; the text suggests the nearest name.

    """
    if name in METHODS:
        return METHODS[name]
    nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
    raise RecipeError(f"merge_method is {name!r}", f"one of {', '.join(METHODS)}", f"did you mean {nearest!r}?")


def find_any(name: str) -> Method:
    """Give the row of a method, or of the conversion, which no recipe can name."""
    return CONVERT if name == CONVERT.name else find(name)

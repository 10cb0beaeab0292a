"""Single values as people write them in recipes: numbers and switches, in quotes too.

Only what stands for exactly one value is read: ``"true"``, ``" 0.5 "``, ``8.0`` for 8, ``1`` for true.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.problems import problem

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_SWITCHES = dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "f", "n", "0"), False
)


def read_number(value: Any) -> float | int | None:
    """Read a finite number; YAML 1.1 takes 1e-5 for a string, as its exponents need a point before them.

    Returns
    -------
    float, int or None
        None if the value is no number.

    """
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return None
        value = int(text) if text.lstrip("+-").isdigit() and len(text) < _LONGEST_INTEGER else float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


_LONGEST_INTEGER = 20
"""Length, in characters, from which on digits cannot be a whole number that recipes may hold."""


def read_whole(value: Any) -> int | None:
    """Read a whole number below 2^63; None if the value is none."""
    number = read_number(value)
    if number is None or number != math.floor(number) or abs(number) >= 2**63:
        return None
    return int(number)


def read_switch(value: Any) -> bool | None:
    """Read a truth value; None if the value is none."""
    if isinstance(value, str):
        return _SWITCHES.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def _whole(value: Any) -> int:
    if (number := read_whole(value)) is None:
        raise problem(f"is {shown(value)}", "a whole number")
    return number


def _switch(value: Any) -> bool:
    if (switch := read_switch(value)) is None:
        raise problem(f"is {shown(value)}", "true or false")
    return switch


def _label(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number as a field of a pydantic model."""
Switch = Annotated[bool, BeforeValidator(_switch)]
"""A truth value as a field of a pydantic model."""
Label = Annotated[str, BeforeValidator(_label)]
"""A text as a field of a pydantic model, which YAML may take for a number."""

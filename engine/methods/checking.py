"""What must hold of a row of the table of methods, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from dovetail.engine.methods.method import REQUIRED, Method, Parameter

_METHOD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PAPER = re.compile(r"https?://\S+")
_BASES = ("origin", "pair", "optional", "member")
_TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "choice": (str,),
    "models": (),
}
"""Types of a default by the parameter's kind. None is always permitted: it means that there is no value."""


def defects(row: Any, taken: Collection[str] = ()) -> list[str]:
    """Say what is wrong with a row, as ends of sentences; nothing if it can be used.

    Parameters
    ----------
    row
        What should be a `Method`.
    taken
        Names that it cannot have.

    """
    if not isinstance(row, Method):
        return [f"{_short(row)} is of type {type(row).__name__}, not a Method"]
    return [*_method_defects(row, taken), *_parameter_defects(row)]


def _method_defects(row: Method, taken: Collection[str]) -> Iterator[str]:
    if not _matches(_METHOD_NAME, row.name):
        yield f"its name is {_short(row.name)}, not lower-case letters, digits and '_'"
    elif row.name in taken:
        yield f"its name {row.name!r} is that of a method of Dovetail"
    if not _is_line(row.summary):
        yield "its summary is not one line of text"
    if row.paper != "" and not _matches(_PAPER, row.paper):
        yield f"its paper is {_short(row.paper)}, not an address or an empty string"
    if row.base not in _BASES:
        yield f"its base is {_short(row.base)}, not one of {', '.join(_BASES)}"
    if not callable(row.program):
        yield f"its program is {_short(row.program)}, not a function"
    if not _is_count(row.min_models):
        yield f"its min_models is {_short(row.min_models)}, not a number from 1 on"
    elif row.max_models is not None and not (_is_count(row.max_models) and row.max_models >= row.min_models):
        yield f"its max_models is {_short(row.max_models)}, not None or a number from {row.min_models} on"
    if not isinstance(row.by_name, bool):
        yield f"its by_name is {_short(row.by_name)}, not True or False"


def _parameter_defects(row: Method) -> Iterator[str]:
    if not isinstance(row.parameters, tuple):
        yield f"its parameters are of type {type(row.parameters).__name__}, not a tuple"
        return
    keys: set[str] = set()
    for parameter in row.parameters:
        if not isinstance(parameter, Parameter):
            yield f"{_short(parameter)} among its parameters is of type {type(parameter).__name__}, not a Parameter"
            continue
        for key in (parameter.name, *parameter.synonyms):
            if not _matches(_PARAMETER_NAME, key):
                yield f"a parameter is called {_short(key)}, not by letters, digits and '_'"
            elif key in keys:
                yield f"two parameters are called {key!r}"
            else:
                keys.add(key)
        yield from _value_defects(parameter, f"its parameter {_short(parameter.name)} has")


def _value_defects(parameter: Parameter, has: str) -> Iterator[str]:
    if not _is_line(parameter.help):
        yield f"{has} a help that is not one line of text"
    if parameter.scope not in ("model", "merge"):
        yield f"{has} the scope {_short(parameter.scope)}, not model or merge"
    if parameter.kind not in tuple(_TYPES):
        yield f"{has} the kind {_short(parameter.kind)}, not one of {', '.join(_TYPES)}"
        return
    if (parameter.kind == "choice") != bool(parameter.choices):
        yield f"{has} no choices, or has some and is no choice"
    default = parameter.default
    if default is REQUIRED or default is None:
        return
    is_flag = isinstance(default, bool) and parameter.kind != "bool"
    if is_flag or not isinstance(default, _TYPES[parameter.kind]):
        yield f"{has} the default {_short(default)}, not one of the kind {parameter.kind}"
    elif parameter.kind == "choice" and default not in parameter.choices:
        yield f"{has} the default {_short(default)}, not one of its choices"


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

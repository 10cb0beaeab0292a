"""Checks of the settings and names of nodes, which may come from a file that is not trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular.network.node import INPUT, Node
from dovetail.engine.modular.network.operations import OPERATIONS
from dovetail.io.files.strict_json import brief

MOST: Final = 2**31 - 1
"""Largest integer among the settings."""

_LONGEST_NAME: Final = 500
_APPROXIMATIONS: Final = ("none", "tanh")


def _is_int(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= MOST


def _ints(value: object, least: int) -> bool:
    return type(value) is tuple and all(_is_int(item, least) for item in value)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and not true or false."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


CHECKS: Final[Mapping[str, tuple[str, Callable[[object], bool]]]] = {
    "count": ("a whole number from 1 on", lambda value: _is_int(value, 1)),
    "counts": ("two whole numbers from 1 on", lambda value: _ints(value, 1) and len(value) == 2),  # type: ignore[arg-type]
    "sizes": ("two whole numbers from 0 on", lambda value: _ints(value, 0) and len(value) == 2),  # type: ignore[arg-type]
    "positions": ("whole numbers from -1 on", lambda value: _ints(value, -1)),
    "number": ("a finite number", is_number),
    "numbers": ("finite numbers", lambda value: type(value) is tuple and all(map(is_number, value))),
    "share": ("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1),  # type: ignore[operator]
    "flag": ("true or false", lambda value: type(value) is bool),
    "approximation": (" or ".join(_APPROXIMATIONS), lambda value: value in _APPROXIMATIONS),
}
"""For every kind of setting what it must be, in words, and whether a value is that."""


def check_name(what: str, name: object) -> None:
    """Check a name of a node, a class or a tensor.

    Raises
    ------
    ArchitectureError
        It is no text, or is empty, too long, or has characters that cannot be printed.

    """
    if type(name) is not str or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise _wrong(f"{what} is {brief(name)}", f"a printable text of 1 to {_LONGEST_NAME} characters")


def check_node(node: Node) -> None:
    """Check a node by itself: its kind, settings, roles and names.

    Raises
    ------
    ArchitectureError
        Something is missing, unknown or of the wrong type; the message names the node.

    """
    check_name("the name of a node", node.name)
    title = f"node {brief(node.name)}"
    if node.name == INPUT:
        raise _wrong(f"a node is called {INPUT!r}", "another name, as that stands for the network's input")
    operation = OPERATIONS.get(node.kind) if type(node.kind) is str else None
    if operation is None:
        raise _wrong(f"the kind of {title} is {brief(node.kind)}", f"one of {', '.join(OPERATIONS)}")
    title += f" ({node.kind})"
    least, most = operation.inputs
    if not least <= len(node.inputs) <= most:
        count = str(least) if least == most else f"at least {least}"
        raise _wrong(f"{title} takes {len(node.inputs)} values", count)
    _check_keys(f"the settings of {title}", node.attributes, tuple(operation.attributes), ())
    for name, check in operation.attributes.items():
        words, holds = CHECKS[check]
        if not holds(node.attributes[name]):
            raise _wrong(f"{name} of {title} is {brief(node.attributes[name])}", words)
    _check_keys(f"the tensors of {title}", node.tensors, operation.required, operation.optional)
    for role, tensor in node.tensors.items():
        check_name(f"the {role} of {title}", tensor)


def _check_keys(what: str, found: Mapping[str, object], required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in found]
    unknown = [name for name in found if name not in (*required, *optional)]
    if missing or unknown:
        wanted = ", ".join(required) or "none"
        wanted += f", and at most {', '.join(optional)}" if optional else ""
        raise _wrong(f"{what} {f'lack {missing[0]}' if missing else f'have {brief(unknown[0])}'}", wanted)


def _wrong(what: str, expected: str) -> ArchitectureError:
    return ArchitectureError(what, expected, "trace the network again, or correct the file")

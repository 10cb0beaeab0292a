"""Where a tensor belongs: its layer, and what it is within the layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dovetail.engine.recipe.layers import parse_layer

OUTSIDE: Final = "outside"
"""What stands in the place of a layer for tensors that are in none."""


def place_of(name: str, *, several: bool) -> tuple[str, str]:
    """Give a tensor's layer and its kind; `several` says whether the model has several stacks of layers."""
    parsed = parse_layer(name)
    if parsed is None:
        return OUTSIDE, _without_numbers(name)
    layer = f"{parsed.stack}{parsed.number}" if several else str(parsed.number)
    return layer, _without_numbers(parsed.suffix.lstrip("."))


def _without_numbers(kind: str) -> str:
    """Put all experts of a layer together."""
    return ".".join("*" if part.isdigit() else part for part in kind.split("."))


def in_order(layers: Iterable[str]) -> list[str]:
    """Put layers in order, each once; what is outside comes last."""
    return sorted(dict.fromkeys(layers), key=_natural)


def _natural(name: str) -> tuple[Any, ...]:
    stack, _, number = name.rpartition(".")
    return (name == OUTSIDE, stack, int(number) if number.isdigit() else 0)

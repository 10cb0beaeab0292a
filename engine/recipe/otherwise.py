"""Weights that two models store under other names or cut otherwise, of which nothing knows how they belong together.

One model has ``q_proj``, ``k_proj`` and ``v_proj`` where another has ``qkv_proj``, or ``gamma`` for ``weight``. Each
would be merged without the other. What one model lacks in a part of a layer then has as many elements as what only it
has there, which does not happen by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from dovetail.engine.recipe.layers import parse_layer

Shape = tuple[int, ...]


def find_otherwise(missing: Mapping[str, Shape], unused: Mapping[str, Shape]) -> tuple[list[str], list[str]] | None:
    """Find a part of a layer of which a model stores all that it lacks as something else.

    Parameters
    ----------
    missing
        Tensors that the model lacks, with the shapes that another has.
    unused
        Tensors that only the model has.

    Returns
    -------
    tuple or None
        Names of what the model lacks, and of what it has instead.

    """
    ours, theirs = _by_part(missing), _by_part(unused)
    for part, names in ours.items():
        others = theirs.get(part, [])
        if others and _elements(missing, names) == _elements(unused, others) > 0:
            return names, others
    return None


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort tensors in layers by what has their modules: ``...self_attn`` for ``...self_attn.q_proj.weight``."""
    found: dict[str, list[str]] = {}
    for name in names:
        if parse_layer(name) is not None:
            found.setdefault(name.rsplit(".", 2)[0], []).append(name)
    return found


def _elements(shapes: Mapping[str, Shape], names: Iterable[str]) -> int:
    return sum(prod(shapes[name]) for name in names)

"""Where two recipes differ, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dovetail.engine.output.tensor_table import labels


def differing_keys(first: Any, second: Any) -> list[tuple[str, str | None, str | None]]:
    """List every key that has not the same value in both JSON values.

    Models in lists are told by their names, so that one more or another order does not make all of them differ.

    Returns
    -------
    list of tuple
        The key as people write it, such as ``models[math].parameters.weight``, and its value in each; None where it is
        not given.

    """
    found, other = dict(_flat(first, "")), dict(_flat(second, ""))
    keys = dict.fromkeys([*found, *other])
    return [(key, found.get(key), other.get(key)) for key in keys if found.get(key) != other.get(key)]


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Give every value that holds no others, by the keys that lead to it."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _flat(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        for label, each in zip(_labels(value), value, strict=True):
            yield from _flat(each, f"{key}[{label}]")
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _labels(items: list[Any]) -> Iterator[str]:
    """Name the items of a list: models as reports name them, and others by their places."""
    models = [item.get("model") if isinstance(item, Mapping) else None for item in items]
    named = iter(labels([name for name in models if isinstance(name, str)]))
    for place, name in enumerate(models):
        yield next(named) if isinstance(name, str) else str(place)

"""Parsing equal headers and indexes only once, while several checkpoints are opened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_shared: ContextVar[MutableMapping[Hashable, Any] | None] = ContextVar("what was parsed", default=None)


@contextlib.contextmanager
def headers_shared() -> Iterator[None]:
    """Parse equal headers and indexes once during the block; most fine-tunes have those of their base model."""
    if _shared.get() is not None:
        yield  # a block around this one shares already
        return
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def parsed_once(key: Hashable, parse: Callable[[], T]) -> T:
    """Give what `parse` makes, or what it made of the same key within a block of `headers_shared`.

    Parameters
    ----------
    key
        All that decides the result: the bytes themselves, and not a checksum of them, which could be forged.
    parse
        Makes the result, which is shared and must not be changed. An error is not shared.

    """
    shared = _shared.get()
    if shared is None:
        return parse()
    found: T | None = shared.get(key)
    if found is None:
        found = shared[key] = parse()
    return found

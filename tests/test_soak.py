"""Merges of all kinds in one process leave nothing behind, do not wait for each other, and work in forked processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.soak import Left, settle, soaking

MOST_OBJECTS = 40
"""Objects, of 300,000, that a round of all kinds may leave: those that libraries keep, such as compiled patterns."""

MOST_SOCKETS = 8
"""Sockets by which the number can go up when more requests happen to be made at once: the two ends of four."""


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """After two rounds, which load modules and fill caches, another leaves no thread, no descriptor, no temporary
    file, no handler, no warning and no objects."""
    with soaking(tmp_path) as soak:
        kinds = soak.kinds()
        for work in (*kinds.values(), *kinds.values()):
            work()
        settle()
        before = Left.now()
        for work in kinds.values():
            work()
        settle()
        after = Left.now()
    assert after.objects - before.objects < MOST_OBJECTS
    assert after.sockets - before.sockets <= MOST_SOCKETS
    apart = {"resident_mib": 0.0, "objects": 0, "sockets": 0}
    assert replace(before, **apart) == replace(after, **apart)

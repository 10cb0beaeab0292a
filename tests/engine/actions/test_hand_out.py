"""Into how many parts a merge is divided for the workers of a cluster."""

from __future__ import annotations

import pytest

from dovetail.engine.actions.hand_out import parts_for

GIB = 2**30


@pytest.mark.parametrize(
    ("moved_bytes", "workers", "parts"),
    [
        (0, 16, 1),
        (2**20, 16, 1),
        (2**27, 16, 2),  # to begin a part takes a while
        (GIB, 16, 16),
        (7 * GIB, 2, 2),  # a short part would often wait for the disk
        (16 * GIB, 2, 4),
        (64 * GIB, 2, 8),
        (64 * GIB, 16, 16),
        (512 * GIB, 2, 32),  # workers may come later
        (512 * GIB, 100, 100),
        (2**50, 3, 1023),
        (2**50, 2000, 8000),
    ],
)
def test_parts(moved_bytes: int, workers: int, parts: int) -> None:
    """Each worker has as many parts as others, neither too small to be worth it nor too few for those that come."""
    assert parts == parts_for(moved_bytes, workers)

"""The model of merges on many machines adds up, and moves bytes as machines that share a storage do."""

from __future__ import annotations

import numpy as np
import pytest

from bench.scaling_model import (
    MODELS,
    Constants,
    Model,
    Storage,
    moving_seconds,
    opening_seconds,
    part_bytes,
    times,
)

CONSTANTS = Constants(start_s=1.0, tensor_s=1e-4, publish_tensor_s=1e-4, row_s=1e-6)
STORAGE = Storage(node_rate=1e9, aggregate_rate=64e9, operations_rate=50_000, latency_s=0.0005)


@pytest.mark.parametrize(
    ("parts", "node", "aggregate", "seconds"),
    [
        ([8], 2, 100, 4),  # alone, at its own rate
        ([8, 8], 2, 100, 4),  # enough for both
        ([8, 8], 2, 2, 8),  # they share
        ([2, 8], 2, 2, 2 + 6 / 2),  # one ends after 2 s, then the other has all
        ([2, 8, 8], 4, 6, 1 + 6 / 3),
        ([0, 0, 6], 3, 3, 2),
    ],
)
def test_sharing(parts: list[int], node: float, aggregate: float, seconds: float) -> None:
    """Parts share the rate of the storage evenly, up to that of their machines, and leave it to others at their end."""
    assert seconds == pytest.approx(moving_seconds(parts, Storage(node, aggregate, 1, 1)))


@pytest.mark.parametrize("nodes", [1, 7, 1000])
def test_parts_move_everything(nodes: int) -> None:
    """All parts together read each input once a pass and write the output once."""
    model = MODELS[0]
    parts = part_bytes(model, nodes, inputs=3, passes=2)
    assert (nodes, 7 * int(model.sizes.sum())) == (len(parts), sum(parts))


def test_one_machine() -> None:
    """One machine takes the time of its bytes, besides that of starting, opening and publishing."""
    model = Model("small", np.array([2 * 10**9, 10**9], np.int64))
    found = times(model, 1, CONSTANTS, STORAGE, inputs=3, passes=1)
    assert (12.0, 0.0, 0.0) == pytest.approx((found.moving, found.shared, found.uneven))
    assert found.start == pytest.approx(1.0 + 2 * 1e-4)
    assert found.total == pytest.approx(found.start + found.opening + 12.0 + found.publishing)
    assert "the machines' rate" == found.limit


def test_the_largest_tensor_is_a_bound() -> None:
    """However many machines there are, moving takes as long as the largest tensor, and that is said."""
    model = Model("uneven", np.array([10**11, *[10**6] * 500], np.int64))
    found = times(model, 500, CONSTANTS, STORAGE)
    assert found.moving + found.shared + found.uneven >= 4e11 / 1e9
    assert "the largest tensor" == found.limit


def test_headers_that_one_process_stores() -> None:
    """Storing them costs few machines, which wait for it, and saves many machines two of three requests for a file."""
    few, many = (
        [opening_seconds(489, 0, nodes, STORAGE, stored=stored) for stored in (False, True)] for nodes in (4, 1000)
    )
    assert few[0] < few[1]
    assert (489 * 3 + 60) * 1000 / 50_000 == pytest.approx(many[0])
    assert 489 * 3 * 0.0005 + (489 + 66) * 1000 / 50_000 == pytest.approx(many[1])
    assert opening_seconds(489, 10, 1, STORAGE) == opening_seconds(489, 10, 1, STORAGE, stored=True)

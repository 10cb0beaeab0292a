"""Random numbers made of raw bits."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine.methods.uniform import normal, uniform


def test_the_same_numbers_for_ever() -> None:
    """Outputs depend on these: the first numbers of a name and seed are as they were when this was written."""
    expected = [0.579517, 0.146885, -0.538584]
    assert expected == [float(f"{value:.6f}") for value in uniform("a", 3, 7)]


def test_uniform_numbers() -> None:
    """They fill the range evenly, and differ by name and seed."""
    values = uniform("a", 100_000, 0)
    assert -1 <= values.min() < -0.999
    assert 0.999 < values.max() < 1
    assert 0 == pytest.approx(values.mean(), abs=0.01)
    assert 1 / 3 == pytest.approx(values.var(), rel=0.02)
    for other in (uniform("b", 100_000, 0), uniform("a", 100_000, 1)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.02


@pytest.mark.parametrize("count", [0, 1, 7, 100_000])
def test_normal_numbers(count: int) -> None:
    """There are as many as asked for, with the moments of the normal distribution, and independent."""
    values = normal("a", count, 0)
    assert (count,) == values.shape
    assert np.isfinite(values).all()
    if count > 7:
        assert [0, 1, 0, 3] == pytest.approx([np.mean(values**power) for power in (1, 2, 3, 4)], abs=0.1)
        assert abs(np.corrcoef(values[: count // 2], values[count // 2 :])[0, 1]) < 0.02

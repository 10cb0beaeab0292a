"""Fitting a plan to a memory limit, and measuring the memory of this process."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.run.budget import Budget, default_limit_bytes, fit
from dovetail.io.files.machine import available_bytes, peak_resident_bytes, resident_bytes

MIB = 2**20


def test_as_many_workers_as_fit() -> None:
    """The number of workers is reduced until the projection is within the limit."""
    budget = fit(300 * MIB, 130 * MIB, 40 * MIB, 8)
    assert budget.projected_bytes <= 300 * MIB
    assert Budget(300 * MIB, 130 * MIB, 40 * MIB, budget.workers + 1).projected_bytes > 300 * MIB


def test_no_more_workers_than_asked_for() -> None:
    """No more workers are used than were asked for, even if there is room."""
    assert 2 == fit(2**40, 130 * MIB, 40 * MIB, 2).workers


def test_too_small_a_limit_names_one_that_would_do() -> None:
    """The limit that the error names is accepted."""
    with pytest.raises(MemoryLimitError, match="too small for this work; expected at least") as caught:
        fit(150 * MIB, 130 * MIB, 40 * MIB, 4)
    enough = int(caught.value.action.split("--memory ")[1].split("MiB")[0])
    assert 1 == fit(enough * MIB, 130 * MIB, 40 * MIB, 4).workers


def test_resident_memory_is_measured() -> None:
    """Touched memory is measured, and the peak is at least the present use."""
    before = resident_bytes()
    held = np.ones(64 * MIB, np.uint8)
    assert resident_bytes() - before > 48 * MIB
    assert peak_resident_bytes() >= before + 48 * MIB
    assert held.all()


def test_the_default_limit_is_half_of_what_is_free() -> None:
    """The default limit exceeds neither 2 GiB nor the free memory."""
    assert 0 < default_limit_bytes() <= min(2 * 2**30, available_bytes())

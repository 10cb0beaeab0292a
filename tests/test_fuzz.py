"""Thousands of damaged and hostile inputs: success or an error of our tree comes of each, soon, and in little memory.

Together these are more than 6,000 inputs, through the functions that everything else goes through, and 300,000 with
``--hypothesis-profile long``. bench/fuzz.py tries as many as one likes, by coverage.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz
from tests.engine.kernels.cases import LONG
from tests.fuzz_targets import KINDS

MOST_GROWTH_BYTES = 100 * 2**20
"""Most memory that a campaign may take beyond what the process held."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_hostile_inputs(tmp_path: Path, name: str) -> None:
    """No input escapes the error tree, hangs, floods the terminal or takes much memory; many rules are reached."""
    kind = KINDS[name]
    target = kind.make(tmp_path)
    for seed in target.seeds:
        fuzz.attempt(target, seed)
    before = fuzz.forget_peak()
    cases = kind.cases * LONG // 2
    found = fuzz.campaign(target, cases, seed=4)
    grown = fuzz.peak_resident_bytes() - before
    print(name, found.cases, found.accepted, len(found.outcomes), found.slowest_seconds, grown)
    assert cases == found.cases
    assert found.accepted > 0
    assert len(found.outcomes) >= kind.outcomes
    assert grown < MOST_GROWTH_BYTES

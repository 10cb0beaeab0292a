"""The same recipes on the same checkpoints as mergekit, and the same results: golden files stand for mergekit.

Results agree within 2 units in the last place of float32, counted at the largest magnitude among an element's operands
(`tests.golden.compare.units`). `tests/golden/exceptions.py` names the recipes where they
cannot, and why. ``bench/parity.py`` compares random recipes with mergekit itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.engine import merge
from dovetail.engine.methods.registry import METHODS
from tests.checkpoints import read_output
from tests.golden.compare import CASES, PAPERS, check, exception_is_needed, method_of, recipe_path
from tests.golden.exceptions import ROUNDING, TRAPS

DETERMINISTIC = (
    *("linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "slerp", "nuslerp", "multislerp"),
    *("karcher", "model_stock", "sce", "nearswap", "arcee_fusion", "ram", "ramplus_tl", "passthrough"),
)
"""mergekit's methods without random masks."""

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
"""Those with random masks: golden recipes keep all or nothing; `tests.engine.methods.test_random_masks` has more."""


@pytest.mark.parametrize("case", [case for case in CASES if method_of(case) in METHODS])
def test_equals_mergekit(case: str, tmp_path: Path) -> None:
    """A recipe gives what mergekit gives for it, and nothing is excused that agrees."""
    merge(recipe_path(case), tmp_path / "out")
    merged = read_output(tmp_path / "out")
    check(case, merged)
    if case in ROUNDING or case in TRAPS:
        assert exception_is_needed(case, merged)


@pytest.mark.parametrize("case", PAPERS)
def test_equals_the_papers(case: str, tmp_path: Path) -> None:
    """Methods that mergekit lacks give what their papers' formulas give in torch."""
    merge(recipe_path(case), tmp_path / "out")
    check(case, read_output(tmp_path / "out"))


def test_exceptions_are_cases() -> None:
    """Every exception is about a golden recipe."""
    assert {*ROUNDING, *TRAPS} <= set(CASES)


def test_every_method_has_golden_recipes() -> None:
    """All of mergekit's methods are compared, and none is skipped because it is missing here."""
    assert {*DETERMINISTIC, *RANDOM} == {method_of(case) for case in CASES}
    assert {*DETERMINISTIC, *RANDOM} <= set(METHODS)

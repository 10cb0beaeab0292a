"""Measures of modules against their definitions, set by set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.modular.evaluation.metrics import jaccard, kernel_retention, module_coupling, sample_cohesion
from tests.naive_modular import jaccard as naive_jaccard

KEPT = {"a": np.array([True, False, True]), "b": np.array([True])}
OTHER = {"a": np.array([False, False, True]), "b": np.array([False])}


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6))
def test_jaccard_of_sets(rows: list[list[bool]]) -> None:
    """Every entry is the Jaccard index of two sets."""
    sets = np.array(rows)
    expected = [[naive_jaccard(a, b) for b in sets] for a in sets]
    assert pytest.approx(np.array(expected)) == jaccard(sets)


def test_retention_is_the_mean_share_over_modules() -> None:
    """Kernels of all layers count alike, and modules are averaged."""
    assert (3 / 4 + 1 / 4) / 2 == kernel_retention([KEPT, OTHER])


def test_coupling_is_the_mean_over_pairs_of_modules() -> None:
    """Pairs of modules are compared over all layers together; a single module has no coupling."""
    rows = [np.concatenate([each["a"], each["b"]]) for each in (KEPT, OTHER, KEPT)]
    expected = np.mean([naive_jaccard(a, b) for a, b in itertools.combinations(rows, 2)])
    assert pytest.approx(expected) == module_coupling([KEPT, OTHER, KEPT])
    assert 0.0 == module_coupling([KEPT])


def test_cohesion_looks_at_the_modules_kernels_alone() -> None:
    """Samples that differ only in kernels that the module does not keep are alike."""
    samples = {"a": np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], bool), "b": np.array([[1], [1], [1]], bool)}
    assert pytest.approx(np.mean([1, 2 / 3, 2 / 3])) == sample_cohesion(samples, KEPT)
    assert 1.0 == sample_cohesion({path: each[:1] for path, each in samples.items()}, KEPT)

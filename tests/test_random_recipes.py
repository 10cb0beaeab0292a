"""Random recipes with slices, gradients and filters, against the oracles, which stand for mergekit.

``bench/parity.py`` draws recipes in the same way and compares with mergekit itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from dovetail.engine import merge
from dovetail.engine.methods.registry import METHODS
from tests.checkpoints import read_output
from tests.engine.kernels.cases import MOST_MODELS
from tests.oracles import ORACLES, RANDOM
from tests.oracles.random_recipes import FAMILIES, random_recipes
from tests.oracles.recipes import merge_recipe

RECIPES = 5
"""Recipes of each method; ``bench/parity.py`` draws as many as one likes, of four models too."""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the checkpoints that recipes refer to, in one folder."""
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        family.make(folder)
    return folder


@pytest.mark.parametrize("method", [name for name in ORACLES if name in METHODS and name not in RANDOM])
def test_random_recipes_equal_the_oracle(method: str, families: Path) -> None:
    """Any recipe gives, tensor by tensor, what the method's definition gives with mergekit's rules for parameters."""
    for number, recipe in enumerate(random_recipes(method, RECIPES, seed=1, most=MOST_MODELS)):
        path = families / f"{method}{number}.yml"
        path.write_text(yaml.safe_dump(recipe))
        expected = merge_recipe(path)
        merge(path, families / path.stem)
        merged = read_output(families / path.stem)
        assert sorted(expected) == sorted(merged), path.read_text()
        for name, result in expected.items():
            clear = np.ones(result.output.shape, bool) if result.doubtful is None else ~result.doubtful
            difference = np.abs(result.output.astype(np.float64) - merged[name].astype(np.float64))
            tolerance = 0 if result.exact else result.tolerance(2)
            assert np.all(difference[clear] <= np.broadcast_to(tolerance, clear.shape)[clear]), (name, path.read_text())

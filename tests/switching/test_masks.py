"""Public recipes with random masks: how much is kept, and what is to be expected of it, by three models at most.

Their values with masks that keep everything are compared with mergekit's in `test_switching`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import merge
from tests.checkpoints import read_output
from tests.switching.corpus import CORPUS, FEW, RANDOM, Entry
from tests.switching.expected import read_expected
from tests.switching.making import make_models

SIGMAS = 5.0
"""Standard deviations by which a count or a sum may lie off: once in two million."""
EXPECTED, _ = read_expected()


def densities(entry: Entry) -> dict[str, float]:
    """Give the density of the first `FEW` models but the base, for recipes of whole models with a number for each.

    Returns
    -------
    dict
        By model; empty if the recipe is of another kind, or if a weight is 0 anywhere.

    """
    (document,) = entry.documents if len(entry.documents) == 1 else ({},)
    found: dict[str, float] = {}
    for each in document.get("models", []):
        own = each.get("parameters") or {}
        values = {key: own.get(key, (document.get("parameters") or {}).get(key, 1.0)) for key in ("density", "weight")}
        if each["model"] == document.get("base_model"):
            continue
        if not isinstance(values["density"], (int, float)) or 0 in numbers(values["weight"]) or each["model"] in found:
            return {}
        found[each["model"]] = float(values["density"])
    return dict(list(found.items())[:FEW])


def numbers(value: Any) -> list[float]:
    """List the numbers in a setting: a number, a gradient, or filters with either."""
    if isinstance(value, dict):
        return numbers(value["value"])
    return [number for each in value for number in numbers(each)] if isinstance(value, list) else [value]


MASKED = [
    name
    for name, entry in CORPUS.items()
    if "error" not in EXPECTED[name] and entry.methods <= RANDOM and any(each < 1 for each in densities(entry).values())
]
LINEAR = [name for name in MASKED if CORPUS[name].methods == {"dare_linear"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for the models of all recipes."""
    return tmp_path_factory.mktemp("masks")


def merged(entry: Entry, root: Path, out: Path, *, dense: bool) -> dict[str, NDArray[Any]]:
    """Merge a recipe in float32; give the tensors of the layers, which all models have in one shape."""
    recipe = make_models(entry, root) / f"{entry.name}.yml"
    recipe.write_text(entry.in_float32(dense=dense))
    merge(recipe, out)
    return layers(out)


def layers(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of a model's layers."""
    return {name: each for name, each in read_output(folder).items() if ".layers." in name}


def test_there_are_recipes_of_every_random_method() -> None:
    """The corpus has recipes with masks for all four methods."""
    assert RANDOM == set().union(*(CORPUS[name].methods for name in MASKED))
    assert LINEAR


@pytest.mark.parametrize("name", MASKED)
def test_as_many_elements_change_as_the_densities_say(name: str, root: Path, tmp_path: Path) -> None:
    """An element keeps the base's value if no model's change of it is kept: as often as independent masks say."""
    entry = CORPUS[name]
    out = merged(entry, root, tmp_path / "out", dense=False)
    base = layers(root / entry.place / entry.documents[0]["base_model"])
    unchanged, expected, variance = 0, 0.0, 0.0
    models = {model: layers(root / entry.place / model) for model in densities(entry)}
    for tensor, values in base.items():
        spared = np.ones(values.shape)
        for model, density in densities(entry).items():
            spared *= 1 - density * (models[model][tensor] != values)
        unchanged += int((out[tensor] == values).sum())
        expected += float(spared.sum())
        variance += float((spared * (1 - spared)).sum())
    assert abs(unchanged - expected) <= SIGMAS * variance**0.5


@pytest.mark.parametrize("name", LINEAR)
def test_masks_leave_the_expectation_as_it_is(name: str, root: Path, tmp_path: Path) -> None:
    """What is kept is rescaled so that the whole change is that of masks which keep everything, but for chance."""
    entry = CORPUS[name]
    out = merged(entry, root, tmp_path / "out", dense=False)
    whole = merged(entry, root, tmp_path / "whole", dense=True)
    base = layers(root / entry.place / entry.documents[0]["base_model"])
    along = across = squares = 0.0
    for tensor, values in base.items():
        full = whole[tensor].astype(np.float64) - values
        chance = out[tensor].astype(np.float64) - whole[tensor]
        along += float((full * chance).sum())
        across += float((full**2 * chance**2).sum())
        squares += float((full**2).sum())
    assert abs(along) <= SIGMAS * across**0.5
    assert 0 < across < squares

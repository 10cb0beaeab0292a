"""Balance: shares add up, evenness is measured from 0 to 1, and words say what the figures say."""

from __future__ import annotations

import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine import merge, read_manifest
from dovetail.engine.cli.report.page.balance import balance, shares_of
from dovetail.engine.cli.report.page.kinds import page_of
from dovetail.engine.cli.report.page.render import render
from tests.engine.cli.report.pages import parse
from tests.engine.conftest import Family

NORMS = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("norms", "expected"),
    [([1, 1], 1.0), ([2, 2, 2], 1.0), ([1, 0], 0.0), ([0, 0, 5], 0.0), ([3**0.5, 1], 0.6), ([1, 1, 0], 0.5)],
)
def test_balance(norms: list[float], expected: float) -> None:
    """All alike is 1, one alone is 0; of three models of which two give as much, half."""
    assert expected == pytest.approx(balance(shares_of(norms)))


@given(NORMS, st.floats(1e-2, 1e2))
def test_what_balance_depends_on(norms: list[float], factor: float) -> None:
    """It is from 0 to 1, and depends neither on the models' order nor on the unit of norms; shares add up to 1."""
    shares = shares_of(norms)
    assert math.fsum(shares) == pytest.approx(1)
    found = balance(shares)
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(balance(shares_of([factor * norm for norm in reversed(norms)])))


@pytest.mark.parametrize("norms", [[0, 0], [math.nan, 1], [math.inf, 1]])
def test_nothing_to_share(norms: list[float]) -> None:
    """Where nothing is kept, or a norm is not finite, there is no balance."""
    assert math.isnan(balance(shares_of(norms)))


def test_layers(family: Family) -> None:
    """Shares and balance of every layer are those of all of its tensors together, and words name the extremes."""
    merge(family.recipe_path, family.out)
    manifest = read_manifest(family.out)
    found = parse(render(page_of(family.out)))
    squares: dict[str, list[float]] = {}
    for name, entry in manifest["tensors"].items():
        layer = name.split(".")[2] if name.startswith("model.layers") else "outside"
        row = squares.setdefault(layer, [0.0, 0.0])
        for place, norm in enumerate(entry["statistics"]["kept_norm"]):
            row[place] += norm**2
    layers = found.column("Balance of every layer", "layer")
    expected = [squares[layer][0] / sum(squares[layer]) for layer in layers]
    assert expected == pytest.approx(found.column("Balance of every layer", "math: share"), rel=1e-5)
    assert expected == pytest.approx(found.part("Share of each model, by layer")["curves"]["math"], rel=1e-5)
    balances = [1 / (share**2 + (1 - share) ** 2) - 1 for share in expected]
    assert balances == pytest.approx(found.column("Balance of every layer", "balance"), rel=1e-5)
    least = layers[balances.index(min(balances))]
    assert f"The least balanced layer is {least}, with {100 * min(balances):.1f}" in found.text
    first = manifest["totals"]["kept_norm"][0] ** 2 / sum(norm**2 for norm in manifest["totals"]["kept_norm"])
    assert f"math {100 * first:.1f}%" in found.text


def test_one_model_gives_all(family: Family) -> None:
    """A model that is the base model has no share, and the merge is very uneven."""
    shutil.rmtree(family.code)
    shutil.copytree(family.base, family.code)
    merge(family.recipe_path, family.out)
    found = parse(render(page_of(family.out)))
    assert "models give very unevenly: math 100%, code 0%, a balance of 0%." in found.text
    assert {0.0} == set(found.column("Balance of every layer", "code: share"))


def test_a_single_model(family: Family) -> None:
    """There is no balance of one model."""
    merge(family.recipe(models=[{"model": str(family.math)}]), family.out)
    assert "Balance" not in parse(render(page_of(family.out))).text

"""Balance: how evenly models give to a merge, as a whole and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.cli.report.page.parts import Column, Curves, Section, Table
from dovetail.engine.output.places import Grid
from dovetail.engine.text import percent

_EVEN: Final = 0.8
_UNEVEN: Final = 0.4
"""Balances from which on a merge is called even, and uneven; two models of which one gives three times as much as the
other, as 75% and 25%, have a balance of 60%."""

_MOST_NAMED: Final = 4
"""Models whose shares are told in a sentence."""


def shares_of(norms: Sequence[float]) -> list[float]:
    """Give each model's share of the squares of norms; NaN where nothing is given, or a norm is not finite."""
    squares = [norm * norm for norm in norms]
    whole = math.fsum(squares) if all(map(math.isfinite, squares)) else math.nan
    return [square / whole if whole else math.nan for square in squares]


def balance(shares: Sequence[float]) -> float:
    """Measure how even shares are: 1 where all are the same, 0 where one is all; NaN where there is nothing to share.

    It is (1 / sum of the squared shares - 1) / (number of shares - 1): the number of equal shares that would be as
    uneven, by the inverse Simpson index, on a scale from 0 to 1.
    """
    if len(shares) < 2 or math.isnan(shares[0]):
        return math.nan
    return max(0.0, (1 / math.fsum(share * share for share in shares) - 1) / (len(shares) - 1))


def balance_section(names: Sequence[str], totals: Sequence[float | None], kept: NDArray[Any], grid: Grid) -> Section:
    """Show what share every model has in what the merge keeps.

    Parameters
    ----------
    names
        Names of the models, two at least.
    totals
        Norm that the merge keeps of each; None where it is not finite.
    kept
        Norm that every tensor keeps of each model, one row for each tensor.
    grid
        The layers of the tensors.

    """
    by_model = [grid.by_layer(partial(_square, kept[:, place])) for place in range(len(names))]
    layers = [shares_of([math.sqrt(square) for square in squares]) for squares in zip(*by_model, strict=True)]
    shares = dict(zip(names, zip(*layers, strict=True), strict=True))
    balances = [balance(each) for each in layers]
    whole = shares_of([math.nan if norm is None else norm for norm in totals])
    return Section(
        "Balance",
        list(_sentences(names, whole, grid.layers, layers, balances)),
        [
            Curves("Share of each model, by layer", "layer", grid.layers, "share", shares, percent=True),
            Table(
                "Balance of every layer",
                [
                    Column("layer", grid.layers),
                    Column("balance", balances, percent=True),
                    *(Column(f"{name}: share", list(each), percent=True) for name, each in shares.items()),
                ],
            ),
        ],
    )


def _square(norms: NDArray[Any], rows: NDArray[np.int64]) -> float:
    return math.fsum(float(norm) ** 2 for norm in norms[rows] if not math.isnan(norm))


def _sentences(
    names: Sequence[str],
    whole: Sequence[float],
    layers: Sequence[str],
    shares: Sequence[Sequence[float]],
    balances: Sequence[float],
) -> Iterator[str]:
    yield (
        "A model's share is its part of the squared norm of all changes that the merge keeps, before weights. Balance "
        "is 100% where all models have the same share, and 0% where one has all."
    )
    of_all = balance(whole)
    if math.isnan(of_all):
        return
    word = "evenly" if of_all >= _EVEN else "unevenly" if of_all >= _UNEVEN else "very unevenly"
    yield f"Together, models give {word}: {_told(names, whole)}, a balance of {percent(of_all)}."
    known = [place for place, each in enumerate(balances) if not math.isnan(each)]
    if not known:
        return
    least, most = (choose(known, key=balances.__getitem__) for choose in (min, max))
    if balances[least] < balances[most]:
        yield (
            f"The least balanced layer is {layers[least]}, with {percent(balances[least])}: "
            f"{_told(names, shares[least])}. The most balanced is {layers[most]}, with {percent(balances[most])}."
        )


def _told(names: Sequence[str], shares: Sequence[float]) -> str:
    """Say what share each model has, those with most first."""
    order = sorted(range(len(names)), key=lambda place: -shares[place])
    told = [f"{names[place]} {percent(shares[place])}" for place in order[:_MOST_NAMED]]
    more = len(order) - len(told)
    return ", ".join(told) + (f", and {more} others less each" if more else "")

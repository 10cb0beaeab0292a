"""What an analysis has found in every tensor: one record each, which can be added up over layers and kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.measured import SHARES, Measured

Records = NDArray[Any]
"""Records of `record_dtype`, which are sums, so that the sum of several says all about them together."""

ALONE, IN_TURN = 0, 1
"""Ways of n:m pruning: each model for itself, and one after another without sharing elements (CABS)."""


def record_dtype(models: int) -> np.dtype[Any]:
    """Make the dtype of a record for so many models.

    Fields of the models are zero where a model lacks a tensor. ``pairs`` has, for every pair of models in the order of
    `pairs_of`, the elements of tensors that both have, those that both change, that they change in opposite directions,
    that differ, and that both keep by n:m pruning alone. ``products`` has the sum of products of a pair's changes, that
    of the magnitudes of negative products, and both models' sums of squares in tensors that both have.
    """
    pairs = len(pairs_of(models))
    return np.dtype(
        [
            *(("elements", "<i8", (models,)), ("zeros", "<i8", (models,)), ("below", "<i8", (models,))),
            *(("nonfinite", "<i8", (models,)), ("base_nonfinite", "<i8")),
            *(("square", "<f8", (models,)), ("base_square", "<f8", (models,)), ("base_product", "<f8", (models,))),
            ("strongest", "<f8", (models, len(SHARES))),
            *(("kept", "<i8", (models, 2)), ("kept_square", "<f8", (models, 2))),
            *(("pairs", "<i8", (pairs, 5)), ("products", "<f8", (pairs, 4))),
        ]
    )


def pairs_of(models: int) -> list[tuple[int, int]]:
    """List the pairs of so many models."""
    return list(combinations(range(models), 2))


def new_table(tensors: int, models: int) -> Records:
    """Make a record for every tensor, all of it in memory at once, so that the budget counts it."""
    table = np.empty(tensors, record_dtype(models))
    table[...] = np.zeros((), table.dtype)
    return table


def fill_record(record: Any, found: Measured, order: Sequence[int], elements: int) -> None:
    """Put what was measured in a tensor into its record.

    Parameters
    ----------
    record
        The record.
    found
        What was measured.
    order
        For each of the tensor's models, which of the analysis it is. A model that is there twice counts where it is
        first.
    elements
        The tensor's elements.

    """
    places: dict[int, int] = {}
    for place, model in enumerate(order):
        places.setdefault(model, place)
    base = len(order)
    record["base_nonfinite"] = found.nonfinite[0]
    for model, at in places.items():
        record["elements"][model], record["zeros"][model] = elements, found.zeros[at]
        record["below"][model], record["nonfinite"][model] = found.counts[at, 0], found.nonfinite[1 + at]
        record["square"][model] = found.products[at, at, 0]
        record["base_square"][model] = found.products[base, base, 0]
        record["base_product"][model] = found.products[base, at, 0]
        record["strongest"][model] = found.strongest[at]
        record["kept"][model], record["kept_square"][model] = found.counts[at, 1:], found.squares[at]
    for pair, (i, j) in enumerate(pairs_of(len(record["elements"]))):
        if i in places and j in places:
            low, high = sorted((places[i], places[j]))
            record["pairs"][pair] = (elements, *found.pairs[high, low])
            squares = (found.products[places[each], places[each], 0] for each in (i, j))
            record["products"][pair] = (*found.products[high, low], *squares)


def total(records: Records) -> Any:
    """Add up records."""
    found = np.zeros((), records.dtype)
    for name in records.dtype.names or ():
        found[name] = records[name].sum(axis=0)
    return found

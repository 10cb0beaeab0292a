"""Where the row of every token comes from, in every model: mergekit's rules.

For one tensor with a vocabulary axis, among the models that it is merged from and that have it (the base model is one
of them, whether or not the method works on task vectors):

1. A model that has the token keeps its own row.
2. A model that lacks it takes the token's default row:

   - what ``tokens`` says of it: zeros; the row of the same token in a model, which must have it; or the row of another
     token of a model, by text or by number;
   - else, if one model alone has the token, that model's row;
   - else, if the base model has it, the base model's row;
   - else the average over the models that have it, in float32, in the order of the base model, then of the recipe;
   - else, if no model has it, zeros, with a warning.

3. With ``force``, models that have the token take the default row too.
4. Rows that pad the vocabulary are, in each model, the mean of all its rows above.

Beyond mergekit, which fails there: a token that ``tokens`` names without a source follows the default rules; numbers
without a token take the row of that number in the model that the vocabulary comes from, else zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.vocabulary.table import Numbers
from dovetail.io.sources.row_map import AVERAGE, MEAN, ZERO, RowMap, row_map


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What a recipe says of the row of one token."""

    model: int | None
    """The model that it is a row of; None for zeros."""
    row: int
    """The row."""


@dataclass(frozen=True, slots=True)
class OutputRows:
    """The output's vocabulary, as far as rows are concerned."""

    size: int
    """One more than the greatest token number."""
    padded_size: int
    """Rows of the output's tensors."""
    unused: NDArray[np.bool_]
    """Numbers below `size` that no token has."""
    own: tuple[Numbers, ...]
    """Every model's row of each of the output's numbers; -1 where it lacks the token."""
    donor: int
    """The model that the vocabulary's numbers come from."""
    donor_size: int
    """Number of tokens that it has embeddings for."""
    given: Mapping[int, TokenRow]
    """What the recipe says of the rows of single tokens, by the output's number."""
    forced: tuple[int, ...]
    """Tokens, by the output's number, whose default row models that have them take too."""


def make_row_maps(
    output: OutputRows, models: Sequence[int], base: int | None, donors: Sequence[int] = ()
) -> tuple[dict[int, RowMap], Numbers]:
    """Say for each of a tensor's models which row of which model every row is.

    Parameters
    ----------
    output
        The vocabulary.
    models
        The models that the tensor is merged from and that have it, the base model first. Donors in the maps are
        positions in this sequence, continued by `donors`.
    base
        The base model, if there is one.
    donors
        Further models, which only `OutputRows.given` takes rows from.

    Returns
    -------
    dict of RowMap
        By model.
    int32[:]
        The tokens that no model has and the recipe says nothing of: their rows are zeros.

    """
    place = {model: np.int16(position) for position, model in enumerate((*models, *donors))}
    present = np.stack([output.own[model] >= 0 for model in models])
    forced = np.zeros(output.size, bool)
    forced[list(output.forced)] = True
    needed = (forced | ~present.all(axis=0)) & ~output.unused
    kinds, rows, averages, absent = _defaults(output, models, base, present, needed)
    for number, row in output.given.items():
        kinds[number], rows[number] = (ZERO, 0) if row.model is None else (place[row.model], row.row)
    _fill_unused(output, place, kinds, rows)
    maps = {}
    for model in models:
        keep = (output.own[model] >= 0) & ~forced & ~output.unused
        maps[model] = _padded(
            np.where(keep, place[model], kinds), np.where(keep, output.own[model], rows), averages, output
        )
    return maps, absent


def _defaults(
    output: OutputRows,
    models: Sequence[int],
    base: int | None,
    present: NDArray[np.bool_],
    needed: NDArray[np.bool_],
) -> tuple[NDArray[np.int16], Numbers, list[tuple[tuple[int, int], ...]], Numbers]:
    """Find the default row of every token that needs one, whatever the recipe says of it."""
    count = present.sum(axis=0)
    donors, rows = np.full(output.size, ZERO, np.int16), np.zeros(output.size, np.int32)
    only = present.argmax(axis=0).astype(np.int16)
    if base is not None and base in models:  # the base model's row goes before the others'
        position = list(models).index(base)
        only = np.where(present[position], np.int16(position), only)
        settled = (count == 1) | present[position]
    else:
        settled = count == 1
    for position, model in enumerate(models):
        chosen = settled & (only == position)
        donors[chosen], rows[chosen] = position, output.own[model][chosen]
    averages: list[tuple[tuple[int, int], ...]] = []
    for number in np.flatnonzero(needed & ~settled & (count > 1)).tolist():
        if number not in output.given:
            donors[number], rows[number] = AVERAGE, len(averages)
            there = np.flatnonzero(present[:, number]).tolist()
            averages.append(tuple((position, int(output.own[models[position]][number])) for position in there))
    absent = np.flatnonzero(needed & (count == 0))
    return donors, rows, averages, absent[~np.isin(absent, list(output.given))].astype(np.int32)


def _fill_unused(output: OutputRows, place: Mapping[int, np.int16], donors: NDArray[np.int16], rows: Numbers) -> None:
    """Give the numbers that no token has their rows."""
    numbers = np.flatnonzero(output.unused).astype(np.int32)
    donors[numbers], rows[numbers] = ZERO, 0
    if output.donor in place:
        there = numbers[numbers < output.donor_size]
        donors[there], rows[there] = place[output.donor], there


def _padded(
    donors: NDArray[np.int16], rows: Numbers, averages: Sequence[tuple[tuple[int, int], ...]], output: OutputRows
) -> RowMap:
    more = output.padded_size - output.size
    used = set(rows[donors == AVERAGE].tolist())  # a model that has every token needs no averages
    return row_map(
        np.concatenate([donors, np.full(more, MEAN, np.int16)]).astype(np.int16),
        np.concatenate([rows, np.zeros(more, np.int32)]).astype(np.int32),
        averages if used else (),
        output.size,
    )

"""Where rows come from: the rules, token by token, against a slow reading of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.engine.planning.vocabulary.rows import OutputRows, TokenRow, make_row_maps
from dovetail.io.sources.row_map import AVERAGE, MEAN, ZERO, RowMap

Row = tuple[int, int] | str | tuple[tuple[int, int], ...]
"""A donor and its row, or a word, or what is averaged."""


def listed(found: RowMap) -> list[Row]:
    """Write out a map row by row."""
    rows: list[Row] = []
    ends = [*found.starts[1:].tolist(), found.size]
    for start, end, donor, row in zip(found.starts, ends, found.donors.tolist(), found.rows.tolist(), strict=True):
        for step in range(end - start):
            words = {ZERO: "zero", MEAN: "mean"}
            rows.append(
                found.averages[row + step] if donor == AVERAGE else words[donor] if donor < 0 else (donor, row + step)
            )
    return rows


def naive(output: OutputRows, models: list[int], base: int | None, model: int) -> list[Row]:
    """Read the rules as they stand in the module's docstring."""
    rows: list[Row] = []
    place = {other: position for position, other in enumerate(models)}
    for number in range(output.size):
        have = [(place[other], int(output.own[other][number])) for other in models if output.own[other][number] >= 0]
        default: Row
        if output.unused[number]:
            inside = output.donor in place and number < output.donor_size
            rows.append((place[output.donor], number) if inside else "zero")
            continue
        if number in output.given:
            said = output.given[number]
            default = "zero" if said.model is None else (place[said.model], said.row)
        elif len(have) == 1:
            default = have[0]
        elif base is not None and output.own[base][number] >= 0:
            default = place[base], int(output.own[base][number])
        else:
            default = tuple(have) if have else "zero"
        own = int(output.own[model][number])
        rows.append((place[model], own) if own >= 0 and number not in output.forced else default)
    return rows + ["mean"] * (output.padded_size - output.size)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[OutputRows, list[int], int | None]:
    """Draw vocabularies, a choice of models, and what a recipe may say."""
    size, count = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    numbers = st.lists(st.integers(-1, 9), min_size=size, max_size=size)
    own = [np.array(draw(numbers), np.int32) for _ in range(count)]
    unused = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    for rows in own:
        rows[unused] = -1
    models = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    base = draw(st.sampled_from([None, models[0]]))
    named = draw(st.lists(st.sampled_from(range(size)), unique=True, max_size=3))
    named = [number for number in named if not unused[number]]
    sources = st.one_of(st.just(TokenRow(None, 0)), st.builds(TokenRow, st.sampled_from(models), st.integers(0, 9)))
    given_rows = {number: draw(sources) for number in named if draw(st.booleans())}
    forced = tuple(number for number in named if draw(st.booleans()))
    padded = size + draw(st.integers(0, 3))
    output = OutputRows(size, padded, unused, tuple(own), draw(st.integers(0, count - 1)), 8, given_rows, forced)
    return output, models, base


@given(outputs())
def test_rows_follow_the_rules(case: tuple[OutputRows, list[int], int | None]) -> None:
    """Every model's map says of every row what the rules say; what no model has is told."""
    output, models, base = case
    maps, absent = make_row_maps(output, models, base)
    for model in models:
        expected = naive(output, models, base, model)
        assert expected == listed(maps[model])
        made = any(isinstance(row, tuple) and row and isinstance(row[0], tuple) for row in expected)
        assert (made or "mean" in expected) == maps[model].made
        assert output.size == maps[model].mean_rows
    nowhere = [
        number
        for number in range(output.size)
        if not output.unused[number]
        and number not in output.given
        and all(output.own[model][number] < 0 for model in models)
    ]
    assert nowhere == absent.tolist()


def test_models_that_only_single_tokens_need() -> None:
    """They give the rows that the recipe takes from them, and have no part in the rules for other tokens."""
    own = (np.array([0, -1], np.int32), np.array([1, 0], np.int32))
    output = OutputRows(2, 2, np.zeros(2, bool), own, 0, 2, {1: TokenRow(1, 5)}, ())
    maps, _ = make_row_maps(output, [0], 0, [1])
    assert [(0, 0), (1, 5)] == listed(maps[0])

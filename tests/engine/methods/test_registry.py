"""The table of methods."""

from __future__ import annotations

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import REQUIRED, Method
from dovetail.engine.methods.registry import METHODS, find


def test_rows_are_found_by_name() -> None:
    """Each row is listed under its own name, and there are as many as the field has."""
    assert 26 == len(METHODS)
    for name, row in METHODS.items():
        assert name == row.name
        assert row is find(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cab", "cabs"), ("task-arithmetic", "task_arithmetic"), ("lineal", "linear"), ("SLERP", "slerp")],
)
def test_unknown_methods_suggest_the_nearest(name: str, nearest: str) -> None:
    """The error names what was asked for, then the nearest of what there is in whatever case, and then all of it."""
    with pytest.raises(RecipeError) as caught:
        find(name)
    expected = f"merge_method is {name!r} (did you mean {nearest!r}?); expected one of {', '.join(METHODS)}"
    assert expected == str(caught.value)


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_rows_explain_themselves(row: Method) -> None:
    """A row says when to use it, where it comes from, and what every parameter does; defaults are valid."""
    assert row.summary.endswith(".")
    assert ": use it " in row.summary or "CABS" in row.summary
    assert row.paper.startswith("https://")
    names = [name for each in row.parameters for name in (each.name, *each.synonyms)]
    assert len(set(names)) == len(names)
    for each in row.parameters:
        assert each.help
        assert ("choice" == each.kind) == bool(each.choices)
        assert each.kind != "choice" or each.default is REQUIRED or each.default in each.choices

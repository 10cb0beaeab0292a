"""Figures of an analysis that heat maps and tables of tensors show, with their titles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

CHANGE: Final = "change, % of the base's norm"
"""Title of the one figure that is written in percent without being a share: axes then have digits enough."""

OF_MODEL: Final = (
    (CHANGE, "relative_norm", None),
    ("unchanged elements", "unchanged", None),
    ("energy in the strongest {share}", "strongest", 0),
    ("energy in {block}", "energy", 0),
    ("energy in {block} after the others", "energy", 1),
)
"""Figures of a model that the heat map and the table of tensors show: title, key, and which of several values."""

OF_PAIR: Final = (
    ("cosine", "cosine", False),
    ("opposed, by magnitude", "weighted_conflict", True),
    ("opposed signs", "sign_conflict", True),
    ("overlap in {block}", "overlap", True),
)
"""Figures of a pair likewise: title, key, and whether it is a share."""


Value = Callable[[Mapping[str, Any]], Any]
"""Takes a figure out of the figures of a tensor, a cell or another group."""


def values_of_models(
    document: Mapping[str, Any], names: Sequence[str], block: str
) -> Iterator[tuple[str, Value, bool]]:
    """Give the figures of every model: a title, how to take it out of figures, and whether it is a share.

    Parameters
    ----------
    document
        The analysis.
    names
        Names of its models for people.
    block
        What n:m pruning keeps, for people.

    """
    for place, name in enumerate(names):
        for title, key, which in OF_MODEL:

            def value(found: Mapping[str, Any], place: int = place, key: str = key, which: int | None = which) -> Any:
                each = found["models"][place]
                if key == "relative_norm":
                    return percent_of_base(each)
                return each[key] if which is None else each[key][which]

            yield f"{name}: {title.format(share=document['strongest'][0], block=block)}", value, title != CHANGE


def values_of_pairs(
    document: Mapping[str, Any], names: Sequence[str], block: str, most: int
) -> Iterator[tuple[str, Value, bool]]:
    """Give the figures of the first pairs, `most` at most; see `values_of_models`."""
    for place, (i, j) in enumerate(document["pairs"][:most]):
        for title, key, percent in OF_PAIR:

            def value(found: Mapping[str, Any], place: int = place, key: str = key) -> Any:
                return found["pairs"][place][key]

            yield f"{names[i]} and {names[j]}: {title.format(block=block)}", value, percent


def percent_of_base(model: Mapping[str, Any]) -> float | None:
    """Give a model's change in percent of the base model's norm."""
    found: float | None = model["relative_norm"]
    return None if found is None else 100 * found

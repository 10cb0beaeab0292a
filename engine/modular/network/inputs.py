"""How the inputs of a network are normalised, as far as its description says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dovetail.engine.modular.network.documents import checked_object, wrong
from dovetail.engine.modular.network.settings import is_number
from dovetail.io.files.strict_json import brief


@dataclass(frozen=True, slots=True)
class InputScale:
    """What inputs are: pixels from 0 to 1, minus the mean, divided by the deviation, channel by channel."""

    mean: tuple[float, ...]
    """Mean of each channel."""
    deviation: tuple[float, ...]
    """Standard deviation of each channel, above 0."""

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON object."""
        return {"mean": list(self.mean), "deviation": list(self.deviation)}

    def seen_from(self, other: InputScale) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Give the factors and shifts that turn inputs that another network takes into those that this one takes."""
        pairs = list(zip(self.mean, self.deviation, other.mean, other.deviation, strict=True))
        factors = tuple(theirs / deviation for _, deviation, _, theirs in pairs)
        shifts = tuple((middle - mean) / deviation for mean, deviation, middle, _ in pairs)
        return factors, shifts


def scale_from_json(what: str, document: object, channels: int) -> InputScale:
    """Read what `InputScale.to_json` gave.

    Raises
    ------
    ArchitectureError
        It is damaged, or has numbers for another number of channels.

    """
    values = checked_object(what, document, {"mean": list, "deviation": list})
    for name, given in values.items():
        if len(given) != channels or not all(map(is_number, given)) or (name == "deviation" and min(given) <= 0):
            above = ", above 0" if name == "deviation" else ""
            raise wrong(f"{name} of {what} is {brief(given)}", f"a number for each of {channels} channels{above}")
    return InputScale(tuple(map(float, values["mean"])), tuple(map(float, values["deviation"])))


def scale_of(about: Mapping[str, Any], channels: int) -> InputScale | None:
    """Find what a trainer says about inputs, under ``training`` and ``normalisation``; None if it says nothing.

    Raises
    ------
    ArchitectureError
        What it says is damaged.

    """
    training = about.get("training")
    if type(training) is not dict or "normalisation" not in training:
        return None
    return scale_from_json("the normalisation", training["normalisation"], channels)

"""Settings of a configuration that describe single layers, recognised by their form.

A list or a text may have an entry for each layer; a list of numbers, or a text of numbers between commas, may name
the layers of one kind; a mapping may have layers' numbers as its keys. The length and the content of a setting show
which of these it is; its name decides only where they leave a doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

_OTHER: Final = re.compile(r"^architectures$|(?<!layer)_ids?$|token|section|label|language|mtp|nextn")
"""Settings that are not of layers, whatever their length."""
OF_LAYERS: Final = re.compile(r"(?:^|_)(?:layers?|blocks?|idxs?|index|indices|indexes|enum)(?:_|$)")
"""Names of settings that are of layers."""
_NAMED_OTHERWISE: Final = re.compile(r"expert|head|dim|channel|size|feature|norm|out_")
"""Names of lists of numbers that do not name layers, though they may have such a word."""
_TEXT: Final = re.compile(r"pattern|hybrid|(?:^|_)(?:layers?|blocks?)_(?:types?|kinds?)$")
"""Names of texts with a letter for each layer."""


class Setting(NamedTuple):
    """A setting, taken apart."""

    form: str
    """What it is written as."""
    entries: Sequence[Any]
    """What it says of each layer; of layers that it can name, whether it does."""
    write: Callable[[Sequence[Any]], Any]
    """Puts a setting of this form together from entries."""


def take_apart(key: str, value: Any, lengths: Sequence[int], *, nested: bool = False, first: int = 0) -> Setting | None:
    """Find what a setting says of each layer; None if it does not say something of each.

    Parameters
    ----------
    key, value
        The setting.
    lengths
        Numbers of layers that it may be of: those of the stack, or with the layers for multi-token prediction.
    nested
        Whether it lies in a mapping, where a length may well be a coincidence: its name must be of layers too.
    first
        The number of the first layer in lists of layers: 0, or 1.

    """
    of_layers = OF_LAYERS.search(key) is not None
    if _OTHER.search(key) or (nested and not of_layers):
        return None
    if isinstance(value, str):
        return _of_text(key, value, lengths, first)
    if isinstance(value, dict):
        return _of_mapping(value, lengths) if of_layers else None
    if not isinstance(value, list):
        return None
    if of_layers and not _NAMED_OTHERWISE.search(key) and (named := _of_numbers(value, lengths, first)):
        return named
    return Setting("list", value, list) if len(value) in lengths and len(value) > 1 else None


def first_number(settings: Mapping[str, Any], layers: int) -> int:
    """Say whether the lists of layers in a mapping count them from 0 or from 1.

    From 1 where a list names the number of layers itself, or all lists together name each layer from 1 on, once.
    """
    lists = [
        value
        for key, value in settings.items()
        if OF_LAYERS.search(key) and not _NAMED_OTHERWISE.search(key) and _are_numbers(value) and value
    ]
    named = [number for value in lists for number in value]
    return int(bool(named) and min(named) >= 1 and max(named) == layers)


def _of_text(key: str, value: str, lengths: Sequence[int], first: int) -> Setting | None:
    if re.fullmatch(r"\s*[0-9]+\s*(?:,\s*[0-9]+\s*)*", value) and OF_LAYERS.search(key) and "," in value:
        named = _of_numbers([int(number) for number in value.split(",")], lengths, first)
        return named and Setting("text of numbers", named.entries, lambda new: ",".join(map(str, named.write(new))))
    if len(value) in lengths and len(value) > 1 and _TEXT.search(key):
        return Setting("text", value, "".join)
    return None


def _of_mapping(value: Mapping[str, Any], lengths: Sequence[int]) -> Setting | None:
    for length in lengths:
        if length > 1 and set(value) == {str(number) for number in range(length)}:
            entries = [value[str(number)] for number in range(length)]
            return Setting("mapping", entries, lambda new: {str(number): entry for number, entry in enumerate(new)})
    return None


def _of_numbers(value: Sequence[Any], lengths: Sequence[int], first: int) -> Setting | None:
    if not _are_numbers(value) or len(set(value)) != len(value):
        return None
    length = next((length for length in lengths if all(first <= number < length + first for number in value)), None)
    if length is None:
        return None
    entries = [number + first in value for number in range(length)]
    return Setting("numbers", entries, lambda new: [number + first for number, named in enumerate(new) if named])


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)

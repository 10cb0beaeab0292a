"""Token numbers in configurations, such as ``eos_token_id``: kept true when the vocabulary changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dovetail.engine.planning.vocabulary.files import text_settings

_KEY = re.compile(r"(?:.*_)?(?:token_ids?|token_index|token_indices)")

Path = tuple[str, ...]
"""Keys that lead to a setting."""


@dataclass(frozen=True, slots=True)
class Renumbering:
    """How the base model's token numbers become the output's."""

    numbers: Mapping[int, int]
    """The output's number of the base model's tokens, by their number there, where the output has them."""
    known: frozenset[int]
    """Numbers of all the base model's tokens."""
    donor: Mapping[str, Any] | None
    """The configuration of the model that the vocabulary comes from, whose numbers are right; None for the base's."""

    def changes(self, config: Mapping[str, Any]) -> tuple[dict[Path, Any], list[str]]:
        """Find the settings of the base model's configuration that must change.

        Returns
        -------
        dict
            New values by path.
        list of str
            Settings that name a token which the output lacks, and become empty.

        """
        changes: dict[Path, Any] = {}
        lost = []
        donor = dict(_settings(self.donor)) if self.donor is not None else {}
        by_name = {path[-1]: value for path, value in donor.items()}
        for path, value in _settings(config):
            now = donor.get(path, by_name.get(path[-1]))
            if now is None:
                now = self._renumbered(value)
                if now is None:
                    lost.append(".".join(path))
            if now != value:
                changes[path] = now
        return changes, lost

    def _renumbered(self, value: Any) -> Any:
        if isinstance(value, list):
            kept = [number for item in value if (number := self._renumbered(item)) is not None]
            return kept or None
        # A number that is no token's is something else than it seems: it stays.
        return self.numbers.get(value) if value in self.known else value


def set_values(config: dict[str, Any], changes: Mapping[Path, Any]) -> None:
    """Write new values into a configuration."""
    for path, value in changes.items():
        place = config
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Give every setting that holds token numbers."""
    parts = text_settings(config)
    named = {(): config} | {(key,): value for key, value in config.items() if any(value is part for part in parts)}
    for prefix, part in named.items():
        for key, value in part.items():
            if _KEY.fullmatch(key) and _is_number(value):
                yield (*prefix, key), value


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and bool(value) and all(type(item) is int for item in value))

"""Where Dovetail differs from mergekit on purpose; ``docs/switching.md`` says the same to users."""

from __future__ import annotations

ROUNDING: dict[str, float] = {}
"""Recipes where float32 arithmetic adds up to more than `expected.UNITS`: units in the last place."""

DTYPES: dict[str, list[str]] = {}
"""Recipes where mergekit does not store what the recipe asks for: the dtypes that Dovetail stores."""

REFUSED: dict[str, str] = {}
"""Recipes that mergekit refuses and Dovetail merges: why."""

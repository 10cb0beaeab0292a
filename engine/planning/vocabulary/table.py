"""Every token of every model, once, and the numbers that each model gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

Numbers = NDArray[np.int32]
"""Token numbers; -1 where there is none."""


@dataclass(frozen=True, slots=True)
class ModelTokens:
    """The tokens of one model."""

    keys: Numbers
    """Its tokens as positions in the table, in the order of their numbers."""
    numbers: Numbers
    """Their numbers, rising."""
    added: Mapping[int, AddedToken]
    """Those that were added to its vocabulary, with their settings, by number."""

    @property
    def size(self) -> int:
        """One more than the greatest number."""
        return int(self.numbers[-1]) + 1 if len(self.numbers) else 0


@dataclass(slots=True)
class TokenTable:
    """Tokens by text. Each text is held once, so that ten models of one vocabulary take little more than one."""

    positions: dict[str, int] = field(default_factory=dict)
    """Position of every token, in the order in which they were first met."""

    def add(self, tokenizer: Tokenizer) -> ModelTokens:
        """Enter a tokenizer's tokens."""
        found = tokenizer.get_vocab(with_added_tokens=True)
        order = sorted(found, key=lambda token: (found[token], token))  # the library gives them in random order
        positions = self.positions
        keys = np.fromiter((positions.setdefault(token, len(positions)) for token in order), np.int32, len(order))
        numbers = np.fromiter((min(found[token], 2**31 - 2) for token in order), np.int32, len(order))
        return ModelTokens(keys, numbers, dict(sorted(tokenizer.get_added_tokens_decoder().items())))

    def by_key(self, tokens: ModelTokens, size: int) -> Numbers:
        """Give the number below `size` of every token of the table in a model."""
        numbers = np.full(len(self.positions), -1, np.int32)
        known = tokens.numbers < size
        numbers[tokens.keys[known]] = tokens.numbers[known]
        return numbers

    def texts(self) -> list[str]:
        """Give the tokens in order."""
        return list(self.positions)

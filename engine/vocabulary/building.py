"""The output's vocabulary: whose tokens it has, and under which numbers.

The rules are mergekit's, whose order of new tokens however changes from run to run; here it is fixed.

- ``base``: the base model's tokens; without a base model, the first model's.
- a model: that model's.
- ``union``: the base model's tokens under their own numbers; then the tokens of every other model, in the recipe's
  order and in that of their numbers, which the base model lacks and no model has as an added token; then the added
  tokens of all models that are still missing. A token that any model has as an added token is one in the output, with
  the settings of the first model that has it so (the base model is the first of all).
- Tokens that ``tokens`` names and the vocabulary lacks come last.
- Tokens whose number is not below a model's ``vocab_size`` have no embedding there, and count as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dovetail.engine.vocabulary.table import ModelTokens, TokenTable

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


def add_union(tokenizer: Tokenizer, table: TokenTable, models: Sequence[tuple[ModelTokens, int]]) -> list[str]:
    """Add to the base model's tokenizer what the models have besides.

    Parameters
    ----------
    tokenizer
        The base model's, without tokens that have no embedding.
    table
        Every token.
    models
        The tokens of every model, the base model's first, with the model's ``vocab_size``.

    Returns
    -------
    list of str
        Added tokens that models have with different settings, of which the first were taken.

    """
    added: dict[str, AddedToken] = {}
    differing: dict[str, None] = {}
    for tokens, size in models:
        for number, token in tokens.added.items():
            if number < size and _settings(added.setdefault(token.content, token)) != _settings(token):
                differing[token.content] = None
    texts, have = table.texts(), tokenizer.get_vocab(with_added_tokens=True)
    plain: dict[str, None] = {}
    for tokens, size in models:
        for key in tokens.keys[tokens.numbers < size].tolist():
            text = texts[key]
            if text not in have and text not in added:
                plain[text] = None
    tokenizer.add_tokens(list(plain))
    tokenizer.add_tokens(list(added.values()))
    return list(differing)


def add_missing(tokenizer: Tokenizer, tokens: Iterable[str]) -> None:
    """Add the tokens that a tokenizer lacks, in order."""
    tokenizer.add_tokens([token for token in tokens if tokenizer.token_to_id(token) is None])


def _settings(token: AddedToken) -> tuple[bool, ...]:
    return token.single_word, token.lstrip, token.rstrip, token.normalized, token.special

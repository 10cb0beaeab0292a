"""The output's vocabulary: which models its tokens come from, and which numbers they have.

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetail.engine.planning.vocabulary.models import Models
from dovetail.engine.planning.vocabulary.reading import open_tokenizer, without
from dovetail.engine.planning.vocabulary.table import ModelTokens, TokenTable
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.machine import resident_bytes
from dovetail.io.files.system import trim_heap

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True, slots=True)
class Built:
    """The output's tokenizer."""

    text: str | None
    """Its ``tokenizer.json``; None if the donor's own files already say all of it."""
    tokens: ModelTokens
    """Its tokens."""
    added: Mapping[int, AddedToken]
    """Its added tokens by number; empty if `text` is None."""
    removed: frozenset[str]
    """Tokens of the donor that it lacks, as they have no embedding."""
    differing: tuple[str, ...]
    """Added tokens that models have with different settings."""
    peak_bytes: int
    """Most memory that the process held meanwhile."""


def build(
    donor: Checkpoint, position: int, models: Models, sizes: Sequence[int], wanted: Sequence[str], *, union: bool
) -> Built:
    """Make the output's tokenizer.

    Parameters
    ----------
    donor
        The model that the vocabulary's numbers come from.
    position
        Its position among the models.
    models
        All models' tokens. The output's are entered in their table.
    sizes
        The ``vocab_size`` of each.
    wanted
        Tokens that the output must have.
    union
        Whether it has every model's tokens.

    """
    own, size, table = models.tokens[position], sizes[position], models.table
    if not union and own.size <= size and all(token in table.positions for token in wanted):
        numbers = table.by_key(own, size)
        if all(numbers[table.positions[token]] >= 0 for token in wanted):
            return Built(None, own, {}, frozenset(), (), 0)
    built = _build(donor, size, table, list(zip(models.tokens, sizes, strict=True)) if union else [], wanted)
    trim_heap()
    return built


def _build(
    donor: Checkpoint,
    size: int,
    table: TokenTable,
    others: Sequence[tuple[ModelTokens, int]],
    wanted: Sequence[str],
) -> Built:
    tokenizer, removed = without(open_tokenizer(donor), size, str(donor.path))
    before = tokenizer.get_vocab_size(with_added_tokens=True), len(tokenizer.get_added_tokens_decoder())
    differing = add_union(tokenizer, table, others)
    add_missing(tokenizer, wanted)
    added = dict(sorted(tokenizer.get_added_tokens_decoder().items()))
    tokens = table.add(tokenizer)
    peak_bytes = resident_bytes()
    if not removed and before == (tokenizer.get_vocab_size(with_added_tokens=True), len(added)):
        return Built(None, tokens, {}, frozenset(), tuple(differing), peak_bytes)
    text = tokenizer.to_str(pretty=False)
    return Built(text, tokens, added, frozenset(removed), tuple(differing), max(peak_bytes, resident_bytes()))


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

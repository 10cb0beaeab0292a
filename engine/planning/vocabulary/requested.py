"""What a recipe says of single tokens, and the output's rows that follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.models import Models
from dovetail.engine.planning.vocabulary.rows import OutputRows, TokenRow
from dovetail.engine.planning.vocabulary.table import ModelTokens, Numbers
from dovetail.engine.recipe import ModelRef
from dovetail.engine.recipe.tokenizer import Token, TokenEmbedding, Tokenizer

_MOST_ROWS = 2**31 - 1
_MOST_PADDING = 2**20


def output_rows(
    settings: Tokenizer, references: Sequence[ModelRef], models: Models, out: ModelTokens, sizes: Sequence[int]
) -> OutputRows:
    """Collect the models' rows from which the rows of the output can come.

    Parameters
    ----------
    settings
        What the recipe says.
    references
        The models.
    models
        Their tokens.
    out
        The output's tokens.
    sizes
        Every model's ``vocab_size``.

    Raises
    ------
    RecipeError
        A token takes its row from a model that lacks it, or the output is padded beyond reason.

    """
    size, step, table = out.size, settings.pad_to_multiple_of or 1, models.table
    if step > _MOST_PADDING:
        raise RecipeError(f"pad_to_multiple_of is {step}", f"at most {_MOST_PADDING}", "correct it in the recipe")
    made: dict[tuple[int, int], Numbers] = {}
    own = []
    for tokens, known in zip(models.tokens, sizes, strict=True):
        key = id(tokens), known  # fine-tunes mostly share all this
        if key not in made:
            made[key] = np.full(size, -1, np.int32)
            made[key][out.numbers] = table.by_key(tokens, known)[out.keys]
        own.append(made[key])
    unused = np.ones(size, bool)
    unused[out.numbers] = False
    numbers, said = named_tokens(settings, models, out), settings.tokens or {}
    donor = references.index(settings.source) if isinstance(settings.source, ModelRef) else 0
    return OutputRows(
        size=size,
        padded_size=-(-size // step) * step,
        unused=unused,
        own=tuple(own),
        donor=donor,
        donor_size=sizes[donor],
        given={
            numbers[text]: _token_row(text, token, references, models, sizes)
            for text, token in said.items()
            if token.source is not None
        },
        forced=tuple(numbers[text] for text, token in said.items() if token.force),
    )


def named_tokens(settings: Tokenizer, models: Models, out: ModelTokens) -> dict[str, int]:
    """Give the output's number of every token that the recipe names."""
    numbers = models.table.by_key(out, out.size)
    return {text: int(numbers[models.table.positions[text]]) for text in settings.tokens or {}}


def _token_row(
    text: str, token: Token, references: Sequence[ModelRef], models: Models, sizes: Sequence[int]
) -> TokenRow:
    """Find the row that the recipe gives a token."""
    source, other = token.source, text
    if isinstance(source, TokenEmbedding):
        if source.model is None:
            return TokenRow(None, 0)
        model = references.index(source.model)
        if source.token is None:
            return TokenRow(model, _checked(text, source.token_id or 0))
        other = source.token
    else:
        assert source is not None, "tokens without a source follow the rules of all others"
        model = references.index(source)
    position = models.table.positions.get(other)
    row = -1 if position is None else int(models.table.by_key(models.tokens[model], sizes[model])[position])
    if row < 0:
        raise RecipeError(
            f"token {text!r} takes its embedding from token {other!r} of {references[model]}, which lacks it",
            "a token that the model has an embedding of",
            "correct tokenizer.tokens in the recipe",
        )
    return TokenRow(model, row)


def _checked(text: str, number: int) -> int:
    if not 0 <= number <= _MOST_ROWS:
        raise RecipeError(
            f"token {text!r} takes its embedding from token number {number}",
            "the number of a token",
            "correct tokenizer.tokens in the recipe",
        )
    return number

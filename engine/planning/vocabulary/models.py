"""Every model's tokens: its tokenizer read, one model after another, in memory that is handed back each time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dovetail.engine.planning.vocabulary.files import TokenizerFile
from dovetail.engine.planning.vocabulary.reading import has_tokenizer, open_tokenizer
from dovetail.engine.planning.vocabulary.table import ModelTokens, TokenTable
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.machine import resident_bytes
from dovetail.io.files.system import trim_heap


@dataclass(frozen=True, slots=True)
class Models:
    """The tokens of all models."""

    table: TokenTable
    """Every token."""
    tokens: tuple[ModelTokens, ...]
    """Each model's tokens."""
    assumed: tuple[int, ...]
    """Models without a tokenizer, which are taken to have the base model's."""
    peak_bytes: int
    """Most memory that the process held."""


def read_models(
    checkpoints: Sequence[Checkpoint], files: Sequence[tuple[TokenizerFile, ...]], needed: Collection[int]
) -> Models:
    """Enter every model's tokens in one table; models with the same files are read once.

    Parameters
    ----------
    checkpoints
        The models, the base model first.
    files
        Their tokenizer files.
    needed
        Models that must have a tokenizer.

    Raises
    ------
    RecipeError
        A library is missing.
    CheckpointError
        A tokenizer is missing or broken.

    """
    table, read, peak_bytes = TokenTable(), dict[tuple[TokenizerFile, ...], ModelTokens](), 0
    tokens: list[ModelTokens] = []
    assumed = []
    for index, checkpoint in enumerate(checkpoints):
        if index not in needed and not has_tokenizer(checkpoint):
            assumed.append(index)
            tokens.append(tokens[0])
            continue
        if files[index] not in read:
            read[files[index]], held_bytes = _enter(checkpoint, table)
            trim_heap()
            peak_bytes = max(peak_bytes, held_bytes)
        tokens.append(read[files[index]])
    return Models(table, tuple(tokens), tuple(assumed), peak_bytes)


def _enter(checkpoint: Checkpoint, table: TokenTable) -> tuple[ModelTokens, int]:
    """Enter one model's tokens, and give the memory held meanwhile; its tokenizer is gone when this returns."""
    tokenizer = open_tokenizer(checkpoint)
    return table.add(tokenizer), resident_bytes()

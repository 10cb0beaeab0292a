"""Deciding the output's vocabulary from the recipe and the models' tokenizer files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.memory import resident_bytes
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.tokenizer import Token, TokenEmbedding
from dovetail.engine.recipe.tokenizer import Tokenizer as TokenizerSettings
from dovetail.engine.vocabulary.axis import Axis, find_axis
from dovetail.engine.vocabulary.building import add_missing, add_union
from dovetail.engine.vocabulary.files import (
    GENERATION_CONFIG,
    TokenizerFile,
    fingerprints,
    read_json,
    vocabulary_size,
)
from dovetail.engine.vocabulary.output_files import as_json, changed_files, template_files, tokenizer_files
from dovetail.engine.vocabulary.planned import Alignment, Vocabulary
from dovetail.engine.vocabulary.reading import has_tokenizer, opened, without
from dovetail.engine.vocabulary.rows import OutputRows, TokenRow
from dovetail.engine.vocabulary.table import ModelTokens, TokenTable
from dovetail.engine.vocabulary.templates import choose_template
from dovetail.engine.vocabulary.token_ids import Path, Renumbering, set_values
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.quantised import read_config

if TYPE_CHECKING:
    from tokenizers import AddedToken


def plan_vocabulary(
    recipe: Recipe, references: Sequence[ModelRef], checkpoints: Sequence[Checkpoint]
) -> Vocabulary | None:
    """Decide the output's tokenizer, and where every row of its embeddings comes from.

    Parameters
    ----------
    recipe
        The recipe.
    references
        `Recipe.references`.
    checkpoints
        What they refer to.

    Returns
    -------
    Vocabulary or None
        None if the recipe asks for nothing: tokenizer files are then the base model's.

    Raises
    ------
    RecipeError
        The recipe asks for a token, model or template that is not there, or a library is missing.
    CheckpointError
        Tokenizer files are missing or broken, or the models' embeddings do not fit together.

    """
    settings = recipe.tokenizer
    if settings is None and recipe.tokenizer_source is not None:
        settings = TokenizerSettings(source=recipe.tokenizer_source)
    if settings is None and recipe.chat_template is None:
        return None
    files = tuple((str(ref), fingerprints(item)) for ref, item in zip(references, checkpoints, strict=True))
    made = _Parts(None, None, None, {}, {}, checkpoints[0], 0, [])
    if settings is not None:
        made = _Making(settings, recipe, references, checkpoints, files).run()
    side_files, warnings = dict(made.side_files), made.warnings
    if recipe.chat_template is not None:
        template = choose_template(recipe.chat_template, checkpoints)
        if template is None:
            warnings.append("chat_template is auto, and no model has a chat template.")
        elif not has_tokenizer(made.donor):
            raise RecipeError(
                f"chat_template has no tokenizer to go with in {made.donor.path}",
                "tokenizer files beside the weights",
                "copy them there, or remove chat_template from the recipe",
            )
        else:
            side_files |= template_files(made.donor, side_files, template)
    return Vocabulary(
        source=made.source,
        token_count=made.token_count,
        alignment=made.alignment,
        side_files=side_files,
        config_changes=made.config_changes,
        files=files,
        planning_bytes=made.planning_bytes,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of a `Vocabulary`, and the model whose tokenizer files the output has."""

    source: str | None
    token_count: int | None
    alignment: Alignment | None
    side_files: dict[str, bytes | None]
    config_changes: dict[Path, Any]
    donor: Checkpoint
    planning_bytes: int
    warnings: list[str]


class _Making:
    """Making one vocabulary."""

    def __init__(
        self,
        settings: TokenizerSettings,
        recipe: Recipe,
        references: Sequence[ModelRef],
        checkpoints: Sequence[Checkpoint],
        files: Sequence[tuple[str, tuple[TokenizerFile, ...]]],
    ) -> None:
        self._settings, self._references, self._checkpoints, self._files = settings, references, checkpoints, files
        self._labels = [str(ref) for ref in references]
        self._bases = frozenset(references.index(ref) for ref in recipe.base_models())
        self._warnings: list[str] = []
        self._most_bytes = 0
        self._configs = [read_config(item.folder) if item.folder else None for item in checkpoints]
        source = settings.source
        self._donor = references.index(source) if isinstance(source, ModelRef) else 0

    def run(self) -> _Parts:
        """Read the tokenizers, one after another, and make the output's."""
        table, models = self._read_models()
        axis = self._find_axis(models)
        text, out, added, removed = self._build(table, models, axis.sizes)
        rows = self._rows(table, models, out, axis)
        donor, base = self._checkpoints[self._donor], self._checkpoints[0]
        side_files = tokenizer_files(base, donor)
        if text is not None:
            side_files |= changed_files(donor, text, added, removed)
        changes = self._token_ids(table, models[0], out, side_files)
        given = {number: token for token, number in self._named(table, out).items()}
        alignment = Alignment(rows, frozenset(axis.tensors), self._bases, given)
        self._warn(axis, removed)
        return _Parts(
            source=str(self._settings.source),
            token_count=len(out.numbers),
            alignment=alignment,
            side_files=side_files,
            config_changes=changes,
            donor=donor,
            planning_bytes=self._most_bytes,
            warnings=self._warnings,
        )

    def _read_models(self) -> tuple[TokenTable, list[ModelTokens]]:
        """Enter every model's tokens in one table; models with the same files are read once."""
        table, read = TokenTable(), dict[tuple[TokenizerFile, ...], ModelTokens]()
        models: list[ModelTokens] = []
        for index, checkpoint in enumerate(self._checkpoints):
            files = self._files[index][1]
            if index not in (0, self._donor) and not has_tokenizer(checkpoint):
                self._warnings.append(f"{self._labels[index]} has no tokenizer; the base model's is assumed.")
                models.append(models[0])
                continue
            if files not in read:
                with opened(checkpoint) as tokenizer:
                    read[files] = table.add(tokenizer)
                    self._note_memory()
            models.append(read[files])
        return table, models

    def _find_axis(self, models: Sequence[ModelTokens]) -> Axis:
        shapes = [{name: info.shape for name, info in item.tensors.items()} for item in self._checkpoints]
        sizes = [vocabulary_size(config) for config in self._configs]
        axis = find_axis(shapes, sizes, self._labels)
        if not any(name in self._checkpoints[0].tensors for name in axis.tensors):
            raise RecipeError(
                f"no tensor of {self._labels[0]} is known to have a row for every token",
                "embeddings named as usual, such as model.embed_tokens.weight",
                "remove the tokenizer settings from the recipe",
            )
        return axis

    def _build(
        self, table: TokenTable, models: Sequence[ModelTokens], sizes: Sequence[int]
    ) -> tuple[str | None, ModelTokens, dict[int, AddedToken], frozenset[str]]:
        """Make the output's tokenizer; its text is None if the donor's own files already hold it."""
        donor, size = self._checkpoints[self._donor], sizes[self._donor]
        wanted = list(self._settings.tokens or {})
        union = self._settings.source == "union"
        if not union and models[self._donor].size <= size and all(token in table.positions for token in wanted):
            numbers = table.by_key(models[self._donor], size)
            if all(numbers[table.positions[token]] >= 0 for token in wanted):
                return None, models[self._donor], {}, frozenset()
        with opened(donor) as whole:
            tokenizer, removed = without(whole, size, str(donor.path))
            before = tokenizer.get_vocab_size(with_added_tokens=True), tokenizer.get_added_tokens_decoder()
            if union:
                differing = add_union(tokenizer, table, list(zip(models, sizes, strict=True)))
                if differing:
                    self._warnings.append(
                        f"{len(differing)} tokens are added with different settings by different models; those of the "
                        f"first are taken: {', '.join(map(repr, differing[:3]))}"
                    )
            add_missing(tokenizer, wanted)
            added = dict(sorted(tokenizer.get_added_tokens_decoder().items()))
            out = table.add(tokenizer)
            self._note_memory()
            same = not removed and before == (tokenizer.get_vocab_size(with_added_tokens=True), added)
            text = None if same else tokenizer.to_str(pretty=False)
            self._note_memory()
            return text, out, added, frozenset(removed)

    def _note_memory(self) -> None:
        self._most_bytes = max(self._most_bytes, resident_bytes())

    def _rows(self, table: TokenTable, models: Sequence[ModelTokens], out: ModelTokens, axis: Axis) -> OutputRows:
        """Say which rows are whose."""
        size, step = out.size, self._settings.pad_to_multiple_of or 1
        own, made = [], dict[tuple[int, int], Any]()
        for model, known in zip(models, axis.sizes, strict=True):
            key = id(model), known
            if key not in made:
                numbers = np.full(size, -1, np.int32)
                numbers[out.numbers] = table.by_key(model, known)[out.keys]
                made[key] = numbers
            own.append(made[key])
        unused = np.ones(size, bool)
        unused[out.numbers] = False
        named = self._named(table, out)
        tokens = self._settings.tokens or {}
        given = {
            named[text]: self._token_row(text, token, table, models, axis.sizes)
            for text, token in tokens.items()
            if token.source is not None
        }
        forced = tuple(named[text] for text, token in tokens.items() if token.force)
        return OutputRows(
            size=size,
            padded_size=-(-size // step) * step,
            unused=unused,
            own=tuple(own),
            donor=self._donor,
            donor_size=axis.sizes[self._donor],
            given=given,
            forced=forced,
        )

    def _named(self, table: TokenTable, out: ModelTokens) -> dict[str, int]:
        """Give the output's number of every token that the recipe names."""
        numbers = table.by_key(out, out.size)
        return {text: int(numbers[table.positions[text]]) for text in self._settings.tokens or {}}

    def _token_row(
        self, text: str, token: Token, table: TokenTable, models: Sequence[ModelTokens], sizes: Sequence[int]
    ) -> TokenRow:
        """Find the row that the recipe gives a token."""
        source = token.source
        if isinstance(source, TokenEmbedding):
            if source.kind == "zero" or source.model is None:
                return TokenRow(None, 0)
            model, other = self._references.index(source.model), source.token
            if other is None:
                return TokenRow(model, self._number(text, source.token_id or 0))
        else:
            assert source is not None
            model, other = self._references.index(source), text
        position = table.positions.get(other)
        row = -1 if position is None else int(table.by_key(models[model], sizes[model])[position])
        if row < 0:
            raise RecipeError(
                f"token {text!r} takes its embedding from token {other!r} of {self._labels[model]}, which lacks it",
                "a token that the model has an embedding of",
                "correct tokenizer.tokens in the recipe",
            )
        return TokenRow(model, row)

    def _number(self, text: str, number: int) -> int:
        if not 0 <= number < 2**31:
            raise RecipeError(
                f"token {text!r} takes its embedding from token number {number}", "a number of a token", "correct it"
            )
        return number

    def _token_ids(
        self, table: TokenTable, base: ModelTokens, out: ModelTokens, side_files: dict[str, bytes | None]
    ) -> dict[Path, Any]:
        """Renumber the tokens that configurations name, and give the changes of config.json."""
        now = table.by_key(out, out.size)[base.keys].tolist()
        numbers = {old: new for old, new in zip(base.numbers.tolist(), now, strict=True) if new >= 0}
        known, other = frozenset(base.numbers.tolist()), self._donor != 0
        checkpoint, donor = self._checkpoints[0], self._checkpoints[self._donor]
        config, generation = self._configs[0] or {}, read_json(checkpoint, GENERATION_CONFIG)
        donor_config = self._configs[self._donor] or {}
        changes, lost = Renumbering(numbers, known, donor_config if other else None).changes(config)
        donors = donor_config | read_json(donor, GENERATION_CONFIG) if other else None
        further, more = Renumbering(numbers, known, donors).changes(generation)
        if further:
            set_values(generation, further)
            side_files[GENERATION_CONFIG] = as_json(generation)
        if lost or more:
            self._warnings.append(
                "settings that name a token which the output lacks become empty: "
                + ", ".join([*lost, *(f"{GENERATION_CONFIG}: {name}" for name in more)])
            )
        return changes

    def _warn(self, axis: Axis, removed: frozenset[str]) -> None:
        """Say what a person should know."""
        if removed:
            some = ", ".join(map(repr, sorted(removed)[:3]))
            self._warnings.append(
                f"{len(removed)} tokens of {self._labels[self._donor]} have no embedding and are removed: {some}"
            )
        if axis.unsure:
            self._warnings.append(
                "tensors with as many rows as the vocabulary and an unusual name are not aligned to the new one: "
                + ", ".join(axis.unsure[:3])
            )

"""Deciding the output's vocabulary from the recipe and the models' tokenizer files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.vocabulary.axis import Axis, find_axis
from dovetail.engine.planning.vocabulary.building import Built, build
from dovetail.engine.planning.vocabulary.files import (
    GENERATION_CONFIG,
    TokenizerFile,
    fingerprints,
    read_json,
    vocabulary_size,
)
from dovetail.engine.planning.vocabulary.models import Models, read_models
from dovetail.engine.planning.vocabulary.output_files import as_json, changed_files, template_files, tokenizer_files
from dovetail.engine.planning.vocabulary.planned import Alignment, Vocabulary
from dovetail.engine.planning.vocabulary.reading import has_tokenizer
from dovetail.engine.planning.vocabulary.requested import named_tokens, output_rows
from dovetail.engine.planning.vocabulary.templates import choose_template
from dovetail.engine.planning.vocabulary.token_ids import Path, Renumbering, set_values
from dovetail.engine.recipe import ModelRef, Recipe
from dovetail.engine.recipe.tokenizer import Tokenizer
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats.config import config_of


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
        settings = Tokenizer(source=recipe.tokenizer_source)
    if settings is None and recipe.chat_template is None:
        return None
    files = tuple((str(ref), fingerprints(item)) for ref, item in zip(references, checkpoints, strict=True))
    configs = [config_of(item) for item in checkpoints]
    made = _Parts(None, None, None, {}, {}, checkpoints[0], 0, [])
    if settings is not None:
        made = _Making(settings, recipe, references, checkpoints, files, configs).run()
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
        sizes=tuple(vocabulary_size(config) for config in configs),
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
        settings: Tokenizer,
        recipe: Recipe,
        references: Sequence[ModelRef],
        checkpoints: Sequence[Checkpoint],
        files: Sequence[tuple[str, tuple[TokenizerFile, ...]]],
        configs: Sequence[dict[str, Any] | None],
    ) -> None:
        self._settings, self._recipe, self._references = settings, recipe, references
        self._checkpoints, self._files, self._configs = checkpoints, files, configs
        self._labels = [str(ref) for ref in references]
        self._donor = references.index(settings.source) if isinstance(settings.source, ModelRef) else 0

    def run(self) -> _Parts:
        """Read the tokenizers, one after another, and make the output's."""
        settings, donor = self._settings, self._checkpoints[self._donor]
        models = read_models(self._checkpoints, [files for _, files in self._files], {0, self._donor})
        axis = self._find_axis()
        wanted = list(settings.tokens or {})
        built = build(donor, self._donor, models, axis.sizes, wanted, union=settings.source == "union")
        rows = output_rows(settings, self._references, models, built.tokens, axis.sizes)
        side_files = tokenizer_files(self._checkpoints[0], donor)
        if built.text is not None:
            side_files |= changed_files(donor, built.text, built.added, built.removed)
        changes, lost = self._token_ids(models, built, side_files)
        texts = {number: text for text, number in named_tokens(settings, models, built.tokens).items()}
        bases = frozenset(self._references.index(ref) for ref in self._recipe.base_models())
        return _Parts(
            source=str(settings.source),
            token_count=len(built.tokens.numbers),
            alignment=Alignment(rows, frozenset(axis.tensors), bases, texts),
            side_files=side_files,
            config_changes=changes,
            donor=donor,
            planning_bytes=max(models.peak_bytes, built.peak_bytes) + self._largest_bytes(),
            warnings=[*self._warnings(models, axis, built), *lost],
        )

    def _largest_bytes(self) -> int:
        """Give the size of the largest file: what reading it holds for a moment, too short to be measured."""
        return max((file.size_bytes for _, files in self._files for file in files), default=0)

    def _find_axis(self) -> Axis:
        shapes = [{name: info.shape for name, info in item.tensors.items()} for item in self._checkpoints]
        axis = find_axis(shapes, [vocabulary_size(config) for config in self._configs], self._labels)
        if not any(name in self._checkpoints[0].tensors for name in axis.tensors):
            raise RecipeError(
                f"no tensor of {self._labels[0]} is known to have a row for every token",
                "embeddings named as usual, such as model.embed_tokens.weight",
                "remove the tokenizer settings from the recipe",
            )
        return axis

    def _token_ids(
        self, models: Models, built: Built, side_files: dict[str, bytes | None]
    ) -> tuple[dict[Path, Any], list[str]]:
        """Renumber the tokens that configurations name; give the changes of config.json, and warnings."""
        base, out = models.tokens[0], built.tokens
        now = models.table.by_key(out, out.size)[base.keys].tolist()
        numbers = {old: new for old, new in zip(base.numbers.tolist(), now, strict=True) if new >= 0}
        known = frozenset(base.numbers.tolist())
        donor_config = self._configs[self._donor] or {}
        donor_generation = donor_config | read_json(self._checkpoints[self._donor], GENERATION_CONFIG)
        other = self._donor != 0
        generation = read_json(self._checkpoints[0], GENERATION_CONFIG)
        changes, lost = Renumbering(numbers, known, donor_config if other else None).changes(self._configs[0] or {})
        further, more = Renumbering(numbers, known, donor_generation if other else None).changes(generation)
        if further:
            set_values(generation, further)
            side_files[GENERATION_CONFIG] = as_json(generation)
        lost += [f"{name} of {GENERATION_CONFIG}" for name in more]
        return changes, [f"settings that name a token which the output lacks become empty: {_some(lost)}"] * bool(lost)

    def _warnings(self, models: Models, axis: Axis, built: Built) -> list[str]:
        """Say what a person should know."""
        found = [f"{self._labels[index]} has no tokenizer; the base model's is assumed." for index in models.assumed]
        if built.differing:
            found.append(
                f"{counted(len(built.differing), 'token')} added with different settings by different models, of "
                f"which the first are taken: {_some(map(repr, built.differing))}"
            )
        if built.removed:
            found.append(
                f"{counted(len(built.removed), 'token')} of {self._labels[self._donor]} without an embedding, "
                f"removed: {_some(map(repr, sorted(built.removed)))}"
            )
        if axis.unsure:
            found.append(
                "tensors with as many rows as the vocabulary and an unusual name, not aligned to the new one: "
                + _some(axis.unsure)
            )
        return found


def _some(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if first[3:] else "")

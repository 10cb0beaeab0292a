"""Making a plan: recipe and checkpoint headers in, `Plan` out.

No tensor data is read, but of tensors of which it matters whether they are copies of others.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.engine import events
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.registry import find
from dovetail.engine.planning.alike import make_alike
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.config_differences import config_differences
from dovetail.engine.planning.copies import is_copy
from dovetail.engine.planning.islands import find_islands, spec_sources
from dovetail.engine.planning.layer_config import restack
from dovetail.engine.planning.locations import Location, locate, open_location
from dovetail.engine.planning.model_config import depth_of, is_untied, says_tied
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.tensors import TensorPlanner
from dovetail.engine.planning.vocabulary import Vocabulary, plan_vocabulary
from dovetail.engine.recipe import Expansion, ModelRef, Recipe, RecipeSource, expand, load_recipe
from dovetail.engine.recipe.unused import notes, refuse_unused
from dovetail.io.checkpoint import Checkpoint, only_inputs
from dovetail.io.dtypes import DType, parse_dtype
from dovetail.io.files.collector import collector_paused
from dovetail.io.formats.config import config_of
from dovetail.io.formats.header import headers_shared

_NO_PLACE = "chat_template has no effect: it is part of the tokenizer's files, and these are left out."


@collector_paused()
@only_inputs()
def make_plan(
    recipe: RecipeSource | Recipe,
    options: PlanOptions | None = None,
    locations: Sequence[Location] | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    download: events.Listener | None = None,
) -> Plan:
    """Decide everything about a merge from the recipe and the checkpoints' headers.

    The result depends on nothing else: not on memory, workers or the machine.

    Parameters
    ----------
    recipe
        A recipe of one document, or what was read from it; see `dovetail.engine.recipe.load.read_origin`.
    options
        What else decides the output.
    locations
        Where the checkpoints are, in the order of `Recipe.references`; None to look where the recipe says.
    checkpoints
        The checkpoints themselves, in the same order, where they are open already.
    download
        Told of what is downloaded of models on a hub; None to download no weights: the headers of those that are not
        in the hub's cache are then read through the network.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    """
    options = options or PlanOptions()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if options.strict:
        refuse_unused([recipe])
    method, references = find(recipe.merge_method), recipe.references()
    if checkpoints is None:
        checkpoints = _open(recipe, locations, download)
    checkpoints = tuple(checkpoints)
    configs = [config_of(checkpoint) for checkpoint in checkpoints]
    labels = [str(ref) for ref in references]
    checkpoints, views = make_alike(checkpoints, configs, labels, allow_partial=options.allow_partial)
    # A chat template alone is written into the tokenizer's files, and without these there is no place for it.
    bare = not options.copy_tokenizer and recipe.tokenizer is None and recipe.tokenizer_source is None
    vocabulary = None if bare else plan_vocabulary(recipe, references, checkpoints)
    expansion = _expand(recipe, method, checkpoints, configs, vocabulary, options)
    dtype = requested_dtype(options.dtype or recipe.out_dtype or recipe.dtype)
    sources = spec_sources(expansion.tensors, checkpoints)
    islands = find_islands(sources, checkpoints, dtype, rounded=options.round_float32)
    planner = TensorPlanner(method, checkpoints, expansion, options, dtype, vocabulary, islands)
    tensors = planner.tensors(expansion.tensors)
    return assemble(
        recipe=recipe,
        options=options,
        method=method,
        checkpoints=checkpoints,
        base=checkpoints[references.index(recipe.base_model)] if recipe.base_model else None,
        models=tuple(str(expansion.checkpoints[index]) for index in planner.models),
        tensors=tensors,
        stacks=expansion.stacks,
        tie=_tie(references[0], expansion, checkpoints[0]),
        vocabulary=vocabulary,
        warnings=(
            *notes(recipe.unused, recipe.origin),
            *(note for checkpoint in checkpoints for note in checkpoint.notes),
            *views,
            *config_differences(configs, labels),
            *expansion.warnings,
            *(restack(copy.deepcopy(configs[0]), expansion.stacks, configs, 0) if configs[0] else ()),
            *planner.warnings(),
            *islands.warnings,
            *(vocabulary.findings() if vocabulary else ()),
            *([_NO_PLACE] if bare and recipe.chat_template is not None else ()),
        ),
    )


def _tie(ref: ModelRef, expansion: Expansion, checkpoint: Checkpoint) -> bool | None:
    """Decide what the output's configuration, which is one checkpoint's, has to say of a tied head; None to keep it."""
    if ref in expansion.untied or is_untied(checkpoint):
        return False
    return True if ref in expansion.retied else None


def _open(recipe: Recipe, locations: Sequence[Location] | None, download: events.Listener | None) -> list[Checkpoint]:
    """Open the checkpoints of a recipe, at the given places or where the recipe says."""
    if locations is None:
        locations = [locate(ref, recipe.origin.folder, download) for ref in recipe.references()]
    with headers_shared():
        return [open_location(location) for location in locations]


def _expand(
    recipe: Recipe,
    method: Method,
    checkpoints: Sequence[Checkpoint],
    configs: Sequence[Mapping[str, Any] | None],
    vocabulary: Vocabulary | None,
    options: PlanOptions,
) -> Expansion:
    """Find the output's tensors and what each is merged from."""
    references = recipe.references()
    catalogues: dict[ModelRef, Mapping[str, tuple[int, ...]]] = {}
    for ref, checkpoint in zip(references, checkpoints, strict=True):
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        catalogues[ref] = shapes if vocabulary is None else vocabulary.reshaped(shapes)
    opened = dict(zip(references, checkpoints, strict=True))
    tied = {ref: says_tied(config) for ref, config in zip(references, configs, strict=True)}
    depths = {ref: depth_of(config) for ref, config in zip(references, configs, strict=True)}
    return expand(
        recipe,
        method,
        catalogues,
        tied,
        strict=options.strict,
        allow_partial=options.allow_partial,
        depths=depths,
        is_copy=lambda ref, one, other: is_copy(opened[ref], one, other),
    )


def requested_dtype(name: str | None) -> DType | None:
    """Find the dtype of a name, which must be one that numbers can be stored in.

    Raises
    ------
    DTypeNameError, RecipeError
        There is no such dtype, or it is not floating-point.

    """
    if name is None:
        return None
    dtype = parse_dtype(name)
    if not dtype.mergeable:
        raise RecipeError(f"output dtype is {name}", "a floating-point dtype, such as bfloat16")
    return dtype

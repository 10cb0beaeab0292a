"""Making a plan of checkpoints that are open: recipe and headers in, `Plan` out.

No tensor data is read, but of tensors of which it matters whether they are copies of others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.registry import find
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.config_differences import config_differences
from dovetail.engine.planning.islands import find_islands, spec_sources
from dovetail.engine.planning.layer_config import restack
from dovetail.engine.planning.likeness import stored_alike
from dovetail.engine.planning.model_config import depth_of, is_untied, says_tied
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.tensors import TensorPlanner
from dovetail.engine.recipe import Expansion, ModelRef, Recipe, expand
from dovetail.engine.recipe.unused import notes
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.dtypes import DType, parse_dtype

if TYPE_CHECKING:
    from dovetail.engine.planning.vocabulary.output_vocabulary import Vocabulary

Config = dict[str, Any] | None
"""A model's configuration, if it has one."""

CopyTest = Callable[[Checkpoint, str, str], "bool | None"]
"""Says whether two tensors of a checkpoint have the same bytes; None where that is not known before the merge."""

_NO_PLACE = "chat_template has no effect: it is part of the tokenizer's files, and these are left out."


def plan_opened(
    recipe: Recipe,
    options: PlanOptions,
    checkpoints: Sequence[Checkpoint],
    configs: Sequence[Config],
    is_copy: CopyTest,
    method: Method | None = None,
) -> Plan:
    """Decide everything about a merge of open checkpoints.

    Parameters
    ----------
    recipe
        The recipe.
    options
        What else decides the output.
    checkpoints, configs
        The checkpoints and their configurations, in the order of `Recipe.named`.
    is_copy
        Says whether two tensors of a checkpoint are copies.
    method
        The row of the table of methods, or one of those that no recipe can name; None for the one that it names.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong.
    CheckpointError
        The checkpoints do not fit together.

    """
    method, references = method or find(recipe.merge_method), recipe.named()
    labels = [str(ref) for ref in references]
    views: list[str] = []
    if stored_alike(checkpoints, configs):
        checkpoints = tuple(checkpoints)
    else:
        from dovetail.engine.planning.alike import make_alike

        checkpoints, views = make_alike(checkpoints, configs, labels, allow_partial=options.allow_partial)
    # A chat template alone is written into the tokenizer's files, and without these there is no place for it.
    bare = not options.copy_tokenizer and recipe.tokenizer is None and recipe.tokenizer_source is None
    vocabulary = None if bare else _plan_vocabulary(recipe, references, checkpoints)
    expansion = _expand(recipe, method, checkpoints, configs, vocabulary, options, is_copy)
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


def _plan_vocabulary(
    recipe: Recipe, references: Sequence[ModelRef], checkpoints: Sequence[Checkpoint]
) -> Vocabulary | None:
    """Decide the output's vocabulary; None if the recipe asks for nothing, as most do."""
    if recipe.tokenizer is None and recipe.tokenizer_source is None and recipe.chat_template is None:
        return None
    from dovetail.engine.planning.vocabulary.making import plan_vocabulary

    return plan_vocabulary(recipe, references, checkpoints)


def _tie(ref: ModelRef, expansion: Expansion, checkpoint: Checkpoint) -> bool | None:
    """Decide what the output's configuration, which is one checkpoint's, has to say of a tied head; None to keep it."""
    if ref in expansion.untied or is_untied(checkpoint):
        return False
    return True if ref in expansion.retied else None


def _expand(
    recipe: Recipe,
    method: Method,
    checkpoints: Sequence[Checkpoint],
    configs: Sequence[Config],
    vocabulary: Vocabulary | None,
    options: PlanOptions,
    is_copy: CopyTest,
) -> Expansion:
    """Find the output's tensors and what each is merged from."""
    references = recipe.named()
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

"""Planning an analysis: which tensors are compared with the base model's, from a recipe and the checkpoints' headers.

A recipe is read as if it merged by a method without parameters that subtracts the base model. So slices, modules,
tokenizers, adapters, tied tensors and what some models lack are treated as in a merge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dovetail.engine import events
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.analysis import ANALYZE, check_block, make_analysis
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.sameness import Sameness
from dovetail.engine.planning.builder import open_checkpoints
from dovetail.engine.planning.copies import is_copy
from dovetail.engine.planning.grid import make_jobs
from dovetail.engine.planning.opened import plan_opened
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.recipe import ModelRef, Recipe, RecipeSource
from dovetail.engine.recipe.gaps import rows_differ
from dovetail.engine.recipe.schema import InputModel, OutputModule, OutputSlice
from dovetail.engine.recipe.stages import load_stages
from dovetail.io.checkpoint import only_inputs
from dovetail.io.files.collector import collector_paused
from dovetail.io.formats.config import config_of


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor of another number of rows than the base model's."""

    model: str
    """The model."""
    tensor: str
    """The tensor's name."""
    found: int
    """Rows in the model."""
    expected: int
    """Rows in the base model."""


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """How models are analysed."""

    plan: Plan
    """What is read: a plan without an output."""
    base: str
    """Name of the base model."""
    rows: tuple[Rows, ...]
    """Tensors that have another number of rows in some model."""
    repeated: tuple[str, ...]
    """Models that the recipe names more than once; each is analysed once."""
    aligned: bool
    """Whether rows that differ are matched by their tokens, because the recipe asks for a tokenizer."""


@collector_paused()
@only_inputs()
def plan_analysis(
    recipe: RecipeSource,
    base: ModelRef | None,
    block: tuple[int, int],
    options: PlanOptions,
    download: events.Listener | None = None,
) -> AnalysisPlan:
    """Decide what an analysis reads.

    Parameters
    ----------
    recipe
        A recipe of one document; its method and parameters have no effect.
    base
        The base model in place of the recipe's; None for the recipe's.
    block
        n and m of n:m pruning.
    options
        Of these, `PlanOptions.keep_nonfinite`, `PlanOptions.strict` and `PlanOptions.allow_partial` count.
    download
        As for `dovetail.engine.planning.builder.make_plan`.

    Raises
    ------
    RecipeError
        The recipe is wrong, or names no base model or no other model.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    """
    n, m = check_block(*block)
    plain = _plain(_only(recipe), base)
    opened = open_checkpoints(plain, None, download)
    configs = [config_of(checkpoint) for checkpoint in opened]
    plan = plan_opened(plain, options, opened, configs, is_copy, ANALYZE)
    tensors = tuple(_program(tensor, (n, m)) for tensor in plan.tensors if tensor.models and tensor.base is not None)
    jobs = make_jobs(
        [tensor.length for tensor in tensors],
        [tensor.element_bytes for tensor in tensors],
        [tensor.chunking.chunk_elements for tensor in tensors],
    )
    return AnalysisPlan(
        plan=replace(plan, tensors=tensors, jobs=tuple(jobs)),
        base=str(plain.base_model),
        rows=tuple(_rows(plain, plan)),
        repeated=tuple(str(ref) for ref, count in Counter(each.model for each in plain.models).items() if count > 1),
        aligned=plan.vocabulary is not None,
    )


def _only(source: RecipeSource) -> Recipe:
    stages = load_stages(source)
    if len(stages) > 1:
        raise RecipeError(f"the recipe has {len(stages)} documents", "one", "analyse each stage by a recipe of its own")
    return stages[0].recipe


def _plain(recipe: Recipe, base: ModelRef | None) -> Recipe:
    """Give the recipe without its method, its parameters and all that decides an output's dtype."""
    chosen = base or recipe.base_model
    if chosen is None:
        raise RecipeError(
            "the recipe names no base_model, and changes are measured from one",
            "the model that the others were made from",
            "pass --base MODEL, or add base_model to the recipe",
        )
    models = _models(recipe.models)
    if recipe.models and all(each.model == chosen for each in models):
        raise RecipeError("there is no model besides the base model", "at least one", "name a fine-tuned model")
    changes = {
        "merge_method": ANALYZE.name,
        "base_model": chosen,
        "models": models,
        "slices": _slices(recipe.slices),
        "modules": {
            name: OutputModule.model_construct(
                models=_models(module.models), slices=_slices(module.slices), parameters={}
            )
            for name, module in recipe.modules.items()
        },
        "parameters": {},
        "vectors": None,
        "dtype": None,
        "out_dtype": None,
        "chat_template": None,
    }
    return recipe.model_copy(update=changes)


def _models(models: Sequence[InputModel]) -> tuple[InputModel, ...]:
    return tuple(each.model_copy(update={"parameters": {}}) for each in models)


def _slices(slices: Sequence[OutputSlice]) -> tuple[OutputSlice, ...]:
    return tuple(
        cut.model_copy(
            update={
                "parameters": {},
                "sources": tuple(source.model_copy(update={"parameters": {}}) for source in cut.sources),
            }
        )
        for cut in slices
    )


def _program(tensor: PlannedTensor, block: tuple[int, int]) -> PlannedTensor:
    """Let a tensor be analysed; its chunks begin where blocks do."""
    if tensor.problem is None:
        assert isinstance(tensor.program, Copy)
        return replace(tensor, program=Sameness(len(tensor.models)))
    m, usual = block[1], tensor.chunking.chunk_elements
    chunking = replace(tensor.chunking, chunk_elements=max(1, usual // m) * m)
    return replace(tensor, program=make_analysis(block, tensor.problem), chunking=chunking)


def _rows(recipe: Recipe, plan: Plan) -> Iterator[Rows]:
    """List tensors of which a model has more or fewer rows than the base model."""
    assert plan.base is not None
    for ref, checkpoint in zip(recipe.named(), plan.checkpoints, strict=True):
        for name, info in checkpoint.tensors.items():
            ours = plan.base.tensors.get(name)
            if ours is not None and rows_differ(ours.shape, info.shape):
                yield Rows(str(ref), name, info.shape[0], ours.shape[0])

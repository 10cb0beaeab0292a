"""Planning a store of task vectors: what each model of a recipe keeps, with all that a merge from it must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dovetail.engine import events
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.keeping import Kept, kept_outputs, kept_program
from dovetail.engine.methods.registry import find
from dovetail.engine.methods.vectors import making, refuse_unstorable
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.builder import open_checkpoints
from dovetail.engine.planning.copies import is_copy
from dovetail.engine.planning.locations import Location
from dovetail.engine.planning.opened import plan_opened
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.vectors.agreement import stored_tensor
from dovetail.engine.planning.vectors.document import StoreDocument, StoredTensor
from dovetail.engine.planning.vectors.stand_ins import Questions, stored_model
from dovetail.engine.planning.vectors.using import Store
from dovetail.engine.recipe import Recipe, RecipeSource
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.recipe.unused import refuse_unused
from dovetail.io.checkpoint import Checkpoint, only_inputs
from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import TensorMismatchError
from dovetail.io.files.collector import collector_paused
from dovetail.io.formats.config import config_of
from dovetail.io.output import SafetensorsFormat


@dataclass(frozen=True, slots=True)
class StorePlan:
    """How a store of task vectors is made."""

    plan: Plan
    """What is computed and written: arrays of marks and values."""
    document: StoreDocument
    """What the store says of itself."""


@collector_paused()
@only_inputs()
def plan_store(
    recipe: RecipeSource | Recipe,
    options: PlanOptions,
    locations: Sequence[Location] | None = None,
    download: events.Listener | None = None,
) -> StorePlan:
    """Decide everything about a store from a recipe and the checkpoints' headers.

    Parameters
    ----------
    recipe
        A recipe of one document.
    options
        What else decides the store; its format is `dovetail.io.zarr.vectors.VectorsFormat`.
    locations, download
        As for `dovetail.engine.planning.builder.make_plan`.

    Raises
    ------
    RecipeError
        The recipe or an option is wrong, or what the models keep by it cannot be stored.
    CheckpointError
        A checkpoint is bad, or the checkpoints do not fit together.

    """
    recipe = recipe if isinstance(recipe, Recipe) else _only(recipe)
    if options.strict:
        refuse_unused([recipe])
    _refuse(recipe)
    family = refuse_unstorable(find(recipe.merge_method)).family
    opened = open_checkpoints(recipe, locations, download)
    configs, questions = [config_of(each) for each in opened], Questions(is_copy)
    merge = plan_opened(recipe, replace(options, format=SafetensorsFormat()), opened, configs, questions)
    tensors, stored = list[PlannedTensor](), dict[str, StoredTensor]()
    for tensor in merge.tensors:
        if tensor.problem is not None and tensor.length:
            program = _program(merge, tensor)
            tensors += _outputs(tensor, program)
            most = tuple(program.widths[1::2])
            stored[tensor.name] = stored_tensor(merge, tensor, program.chunk, most)
    names = {ref: str(ref) for ref in recipe.named() if ref not in recipe.base_models()}
    parts = zip(recipe.named(), merge.checkpoints, configs, strict=True)
    document = StoreDocument(
        family=family,
        method=merge.method.name,
        seed=options.seed if merge.method.by_name else None,
        models={names[ref]: stored_model(each, config, questions) for ref, each, config in parts if ref in names},
        tensors=stored,
    )
    _check_repeats(merge, document, opened, options)
    plan = assemble(
        recipe=recipe,
        options=options,
        method=making(merge.method),
        checkpoints=merge.checkpoints,
        base=merge.base,
        models=merge.models,
        tensors=tuple(tensors),
        warnings=merge.warnings,
    )
    return StorePlan(plan, document)


def _only(source: RecipeSource) -> Recipe:
    """Read a recipe of one document.

    Raises
    ------
    RecipeError
        It is wrong, or has several documents.

    """
    stages = load_stages(source)
    if len(stages) > 1:
        raise RecipeError(
            f"the recipe has {len(stages)} documents",
            "one",
            "make a store of each that prunes, from a recipe of its own",
        )
    return stages[0].recipe


def _refuse(recipe: Recipe) -> None:
    """Refuse recipes of which no store can be made."""
    if recipe.vectors is not None:
        raise RecipeError(
            f"the recipe merges from the store {recipe.vectors}", "a recipe that merges models", "leave 'vectors' out"
        )
    if recipe.tokenizer or recipe.tokenizer_source:
        raise RecipeError(
            "the recipe asks for a tokenizer, and a store has none: its models' tokens would be taken for others",
            "models with the tokenizer of the base model",
            "leave the tokenizer out, or merge the models themselves",
        )


def _program(merge: Plan, tensor: PlannedTensor) -> Kept:
    """Make the program of a tensor, with rows no longer than the tensor."""
    assert tensor.problem is not None
    chunk = min(tensor.chunking.chunk_elements, tensor.length)
    return kept_program(merge.method, tensor.problem, chunk)


def _outputs(tensor: PlannedTensor, program: Kept) -> list[PlannedTensor]:
    """Plan the arrays of a tensor; the first has the inputs."""
    assert tensor.problem is not None
    outputs = kept_outputs(replace(tensor.problem, name=tensor.name), program)
    dtypes = [DTYPES[str(each.dtype)] for each in outputs]
    input_bytes = tensor.element_bytes - tensor.dtype.itemsize
    return [
        replace(
            tensor,
            name=output.name,
            shape=output.shape,
            length=output.length,
            dtype=dtype,
            program=program,
            base=None if place else tensor.base,
            models=() if place else tensor.models,
            order=() if place else tensor.order,
            element_bytes=(0 if place else input_bytes) + dtype.itemsize,
            chunking=replace(tensor.chunking, chunk_elements=program.chunk),
            inputs_length=tensor.length,
            followers=() if place else tuple(dtypes[1:]),
            output=place,
        )
        for place, (output, dtype) in enumerate(zip(outputs, dtypes, strict=True))
    ]


def _check_repeats(merge: Plan, document: StoreDocument, opened: Sequence[Checkpoint], options: PlanOptions) -> None:
    """Make sure that a merge from the store would be planned as the merge of the models is.

    Raises
    ------
    TensorMismatchError
        It would not, as something of the models counts that a store does not have.

    """
    recipe = merge.recipe
    bases = [opened[recipe.named().index(ref)] for ref in recipe.base_models()]
    store = Store("the store", bases[0], document)
    cast = store.cast(recipe, bases, [config_of(each) for each in bases], is_copy)
    again = plan_opened(recipe, replace(merge.options, allow_partial=True, strict=False), *cast)
    before, after = ([_described(plan, each) for each in plan.tensors] for plan in (merge, again))
    unlike = next((a[0] for a, b in zip(before, after, strict=False) if a != b), None)
    if unlike is not None or len(before) != len(after) or any(c for stack in merge.stacks for c, _ in stack.layers):
        name = "the models' layers" if unlike is None else f"tensor {unlike!r}"
        raise TensorMismatchError(
            f"{name} cannot be planned again without the models, as more than their own tensors decides it",
            "models with the tensors, the layers and the tied tensors of the base model",
            "merge the models themselves",
        )


def _described(plan: Plan, tensor: PlannedTensor) -> tuple[object, ...]:
    """Say of a planned tensor what must be the same in two plans."""
    models = tuple(plan.models[index] for index in tensor.order)
    return tensor.name, tensor.shape, tensor.dtype, tensor.problem, models if tensor.problem else ()

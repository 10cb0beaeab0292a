"""Merging models that are in memory: the function `dovetail.merge_tensors`.

The arguments become a recipe, and the arrays become sources. From there on everything is as in a merge of files: the
plan, its chunks, programs and kernels; only the output's chunks go into arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.in_memory import merge_in_memory
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.program import Bytes
from dovetail.engine.methods.registry import find
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.progress import followed
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.groups import sets_base_apart
from dovetail.engine.recipe.tensors import recipe_of
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.text import LARGEST_BYTES
from dovetail.io.arrays import checkpoint_of, is_array, is_torch, to_array, to_torch

_ALONE = "tensor"
"""Name of the tensor where models are single arrays."""


def merge_tensors(
    method: str,
    models: Sequence[Any] | Mapping[str, Any],
    base: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    options: PlanOptions | None = None,
    workers: int | None = None,
    listen: events.Listener | None = None,
    progress: bool | events.Listener = False,
    **named: Any,
) -> Any:
    """Merge models that are in memory: state dicts, or single arrays.

    The result is that of `merge` for files of the same tensors, bit for bit. Nothing is written to the disk, and no
    input is changed. Contiguous arrays, and torch tensors on the CPU, are used where they are. State dicts have no
    ``config.json``, so that what it would decide, such as whether a head is tied, is decided by the tensors.

    Parameters
    ----------
    method
        Name of a method, as in a recipe.
    models
        The models: a list, or a mapping by names of which errors speak. A model is a state dict of arrays or of torch
        tensors, a ``torch.nn.Module``, or a single array or tensor. All are of one kind.
    base
        The base model, if the method has one. It may be one of the models: the same object.
    parameters, named
        Parameters of the method by name, as in a recipe. ``weight=[0.7, 0.3]`` gives every model its own value, and
        so does a mapping by the models' names; one value is for all. Values by tensor are lists of filters, as in
        recipes, one list for each model. ``lambda``, which Python reserves, can be written ``lambda_``.
    options
        Dtype of the output, seed of random masks and the like; the format has no effect. Without a dtype each tensor
        has the base model's, or the first model's.
    workers
        Most threads that compute at once; None for one on each core.
    listen
        Receives events while the merge goes on; None to show warnings as Python's own.
    progress
        As for `merge`; warnings are then part of what is shown or received.

    Returns
    -------
    dict or array
        A state dict if the models are state dicts, else one array. It has torch tensors, on their devices, if the base
        model, or without one the first model, has; else numpy arrays. What numpy lacks is of a dtype of `ml_dtypes`.

    Raises
    ------
    RecipeError
        The method, a parameter or an option is wrong, or the models are not of one kind.
    CheckpointError
        The models do not fit together, or a tensor is of a dtype that is not merged, or holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> merge_tensors("linear", [np.float32([1, 2]), np.float32([3, 6])], weight=[0.75, 0.25])
    array([1.5, 3. ], dtype=float32)
    >>> base, tuned = {"norm.weight": np.float32([1, 1])}, {"norm.weight": np.float32([1, 2])}
    >>> merge_tensors("task_arithmetic", [tuned], base=base, weight=0.5)["norm.weight"]
    array([1. , 1.5], dtype=float32)

    """
    given = {**(parameters or {}), **{name.removesuffix("_"): value for name, value in named.items()}}
    named_models, base_name, alone = _models(method, models, base)
    names = list(named_models)[: len(models)]
    if base is None and sets_base_apart(find(method), given=False):
        raise RecipeError(f"{method} has no base model to compare with", "a model", "pass it as base")
    recipe = load_recipe(recipe_of(find(method), names, base_name, given))
    checkpoints = [checkpoint_of(ref.path, named_models[ref.path]) for ref in recipe.references()]
    plan = make_plan(recipe, options, checkpoints=checkpoints)
    with followed(progress, listen or (events.ignore if progress else _warn), "merging") as hear:
        # The caller's tensors are in memory already, and no limit of ours would be any help.
        merged = merge_in_memory(plan, RunOptions(memory_bytes=LARGEST_BYTES, workers=workers), hear)
    like = named_models[names[0] if base_name is None else base_name]
    result = {tensor.name: _as_in(like, tensor, data) for tensor, data in zip(plan.tensors, merged, strict=True)}
    return result[_ALONE] if alone else result


def _models(method: str, models: Any, base: Any) -> tuple[dict[str, Any], str | None, bool]:
    """Name the models: give their tensors by name, the base model's name, and whether they are single arrays."""
    if not isinstance(method, str):
        raise _wrong(f"the method is of type {type(method).__name__}", "its name, such as 'ties', before the models")
    if isinstance(models, Mapping):
        found = {_name(name): _model(model) for name, model in models.items()}
        if any(is_array(model) for model in found.values()):
            raise _wrong("models is a mapping of arrays", "a list of models, or a mapping of names to state dicts")
        objects = list(models.values())
    elif isinstance(models, Sequence) and not isinstance(models, str):
        found = {f"models[{place}]": _model(model) for place, model in enumerate(models)}
        objects = list(models)
    else:
        raise _wrong(f"models is of type {type(models).__name__}", "a list of models, or a mapping of names to models")
    base_name = next((name for name, model in zip(found, objects, strict=True) if model is base), None)
    if base is not None and base_name is None:
        base_name = "base" if "base" not in found else "base model"
        found[base_name] = _model(base)
    kinds = {is_array(model) for model in found.values()}
    if len(kinds) > 1:
        raise _wrong("some models are arrays and others are state dicts", "models of one kind")
    if kinds == {True}:
        return {name: {_ALONE: model} for name, model in found.items()}, base_name, True
    return found, base_name, False


def _name(value: Any) -> str:
    """Check the name of a model."""
    if isinstance(value, str) and value:
        return value
    raise _wrong(f"the name of a model is {value!r}, of type {type(value).__name__}", "text")


def _model(value: Any) -> Any:
    """Give a model as a state dict or an array."""
    if isinstance(value, Mapping) or is_array(value):
        return value
    if callable(getattr(value, "state_dict", None)):
        return value.state_dict()
    raise _wrong(f"a model is of type {type(value).__name__}", "a state dict, a module, an array or a tensor")


def _wrong(what: str, expected: str) -> RecipeError:
    return RecipeError(what, expected, "correct the arguments")


def _as_in(model: Mapping[str, Any], tensor: PlannedTensor, data: Bytes) -> Any:
    """Give an output tensor by the library that a model's tensors are of."""
    own = model.get(tensor.name, next(iter(model.values()), None))  # an output may have tensors that the model lacks
    if not is_torch(own):
        return to_array(data, tensor.dtype, tensor.shape)
    return to_torch(data, tensor.dtype, tensor.shape).to(own.device)


def _warn(event: events.Event) -> None:
    """Show warnings, and nothing else, as Python's own."""
    if isinstance(event, events.Notice) and event.level == "warning":
        warnings.warn(event.text, stacklevel=4)

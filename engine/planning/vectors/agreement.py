"""Whether a recipe keeps of the models what a store has: what decides that must be the same, all else may differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.keeping import deciding
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Problem
from dovetail.engine.methods.vectors import refuse_unstorable
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.vectors.document import StoreDocument, StoredTensor
from dovetail.engine.recipe import Recipe
from dovetail.engine.recipe.places import nearest, one_of, shown
from dovetail.io.dtypes import DTYPES

_MISSING = object()
_ANEW = "correct it, or make a store of this recipe"


def stored_tensor(plan: Plan, tensor: PlannedTensor, chunk: int, most: tuple[int, ...]) -> StoredTensor:
    """Say of a planned tensor what a store has to say of it.

    Parameters
    ----------
    plan, tensor
        The plan of the merge, and one of its tensors, which is merged.
    chunk
        Elements of a chunk of the store.
    most
        For each model, the values in a row of the store.

    """
    problem, method = tensor.problem, plan.method
    assert problem is not None
    assert problem.base_code is not None
    return StoredTensor(
        shape=tensor.shape,
        chunk=chunk,
        base_dtype=_dtype(problem.base_code),
        models=tuple(plan.models[index] for index in tensor.order),
        dtypes=tuple(map(_dtype, problem.model_codes)),
        most=most,
        parameters=deciding(method, problem.parameters),
        model_parameters=tuple(deciding(method, each) for each in problem.model_parameters),
        random_name=_random_name(method, problem),
    )


def _dtype(code: int) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype.kernel_code == code)


def _random_name(method: Method, problem: Problem) -> str | None:
    return problem.name if method.by_name else None


def check_agreement(document: StoreDocument, recipe: Recipe, method: Method, label: str) -> None:
    """Check that a store was made of a recipe's models, by a method that keeps the same.

    Raises
    ------
    RecipeError
        It was not.

    """
    family = refuse_unstorable(method).family
    if family != document.family:
        raise RecipeError(
            f"merge_method is {method.name}, and the store {label} was made by {document.method}",
            "a method that keeps the same changes",
            _ANEW,
        )
    here = [str(ref) for ref in recipe.named() if ref not in recipe.base_models()]
    for name in here:
        if name not in document.models:
            hint = nearest(name, document.models)
            raise RecipeError(
                f"the store {label} has no model {shown(name)}" + (f" ({hint})" if hint else ""),
                one_of(document.models),
                "name the models as the recipe did of which the store was made, or make a store of this recipe",
            )
    for name in document.models:
        if name not in here:
            raise RecipeError(
                f"the recipe lacks the model {shown(name)}, which the store {label} has",
                "all models of the store, as what one keeps may depend on the others",
                "add it, with a weight of 0 if it is to change nothing",
            )


def check_tensor(document: StoreDocument, tensor: PlannedTensor, plan: Plan, label: str) -> StoredTensor:
    """Give what a store says of a planned tensor, if the recipe keeps the same of it.

    Raises
    ------
    RecipeError
        It does not; the text names the first difference.

    """
    stored = document.tensors.get(tensor.name)
    if stored is None:
        raise RecipeError(
            f"the store {label} has no tensor {tensor.name!r}",
            "the recipe and the base model of the store",
            "make a store of this recipe",
        )
    seed = plan.options.seed if plan.method.by_name else None
    if seed != document.seed:
        raise RecipeError(
            f"the seed is {seed}, and the store {label} was made with {document.seed}",
            "the same random masks",
            f"pass --seed {document.seed}, or make a store with this seed",
        )
    found = stored_tensor(plan, tensor, stored.chunk, stored.most)
    for key, title in (("shape", "shape"), ("base_dtype", "base model's dtype"), ("models", "order of models")):
        _compare(title, getattr(found, key), getattr(stored, key), tensor, label)
    for place, model in enumerate(found.models):
        _compare(f"dtype of model {model}", found.dtypes[place], stored.dtypes[place], tensor, label)
    _compare_all("", found.parameters, stored.parameters, tensor, label)
    for place, model in enumerate(found.models):
        ours, theirs = found.model_parameters[place], stored.model_parameters[place]
        _compare_all(f" of model {model}", ours, theirs, tensor, label)
    _compare("name for random masks", found.random_name, stored.random_name, tensor, label)
    return stored


def _compare_all(
    where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], tensor: PlannedTensor, label: str
) -> None:
    for key in dict.fromkeys([*ours, *theirs]):
        _compare(f"{key}{where}", ours.get(key, _MISSING), theirs.get(key, _MISSING), tensor, label)


def _compare(title: str, ours: Any, theirs: Any, tensor: PlannedTensor, label: str) -> None:
    if _text(ours) != _text(theirs):
        raise RecipeError(
            f"the {title} is {_text(ours)} for tensor {tensor.name!r}",
            f"{_text(theirs)}, as in the store {label}",
            _ANEW,
        )


def _text(value: Any) -> str:
    return "not given" if value is _MISSING else json.dumps(value)

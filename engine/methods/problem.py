"""Reading a `Problem`'s parameters, with errors that say which tensor and model they concern."""

from __future__ import annotations

import math

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.program import Problem

LARGEST = float(np.finfo(np.float32).max)
"""Greatest finite float32."""


def describe_model(problem: Problem, model: int) -> str:
    """Name a model and the tensor for an error message."""
    named = problem.model_names[model] if problem.model_names else f"{model + 1}"
    return f"model {named}, tensor {problem.name!r}"


def model_weights(problem: Problem) -> tuple[float, ...]:
    """Give the models' weights.

    Raises
    ------
    RecipeError
        A weight is not a number that float32 can hold.

    """
    weights = tuple(float(parameters["weight"]) for parameters in problem.model_parameters)
    for model, weight in enumerate(weights):
        if not math.isfinite(weight) or abs(weight) > LARGEST:
            raise RecipeError(
                f"weight is {weight} for {describe_model(problem, model)}",
                "a finite number within the range of float32",
                "correct 'weight' in the recipe",
            )
    return weights


def sum_float32(values: tuple[float, ...]) -> float:
    """Sum in float32, in order."""
    total = np.float32(values[0])
    for value in values[1:]:
        total = np.float32(total + np.float32(value))
    return float(total)


def task_vector_codes(problem: Problem) -> tuple[int, ...]:
    """Give the dtype codes of the base model's tensor and of the models'."""
    assert problem.base_code is not None, "the engine checks that methods with a required base model have one"
    return (problem.base_code, *problem.model_codes)

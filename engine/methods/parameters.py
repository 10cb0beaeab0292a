"""Reading the parameters of a `Problem`, with errors that name the tensor and the model."""

from __future__ import annotations

import math

import numpy as np
import xxhash

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.program import Problem

LARGEST = float(np.finfo(np.float32).max)
"""Greatest finite float32."""


def describe_model(problem: Problem, model: int) -> str:
    """Make the words by which an error message names a model and the tensor."""
    named = problem.model_names[model] if problem.model_names else f"{model + 1}"
    return f"model {named}, tensor {problem.name!r}"


def model_weights(problem: Problem) -> tuple[float, ...]:
    """Read the weights of the models.

    Raises
    ------
    RecipeError
        A weight is not a finite number within the range of float32.

    """
    return tuple(model_number(problem, model, "weight") for model in range(len(problem.model_codes)))


def model_number(problem: Problem, model: int, key: str, least: float = -LARGEST, most: float = LARGEST) -> float:
    """Read a parameter of a model that is a number from `least` to `most`.

    Raises
    ------
    RecipeError
        The value is outside of these bounds.

    """
    value = float(problem.model_parameters[model][key])
    return _check_number(value, f"for {describe_model(problem, model)}", key, least, most)


def merge_number(problem: Problem, key: str, least: float = -LARGEST, most: float = LARGEST) -> float:
    """Read a parameter of the merge that is a number from `least` to `most`.

    Raises
    ------
    RecipeError
        The value is outside of these bounds.

    """
    return _check_number(float(problem.parameters[key]), f"for tensor {problem.name!r}", key, least, most)


def _check_number(value: float, where: str, key: str, least: float, most: float) -> float:
    if math.isfinite(value) and least <= value <= most:
        return value
    expected = "a finite number within the range of float32"
    if least != -LARGEST:
        expected = f"a number from {least:g}" + ("" if most == LARGEST else f" to {most:g}")
    raise RecipeError(f"{key} is {value} {where}", expected, f"correct '{key}' in the recipe")


def sum_float32(values: tuple[float, ...]) -> float:
    """Sum values in float32, in their order."""
    total = np.float32(values[0])
    for value in values[1:]:
        total = np.float32(total + np.float32(value))
    return float(total)


def task_vector_codes(problem: Problem) -> tuple[int, ...]:
    """Give the dtype codes of the base model's tensor and of the models'."""
    assert problem.base_code is not None, "the engine checks that methods with a required base model have one"
    return (problem.base_code, *problem.model_codes)


def random_key(problem: Problem) -> tuple[int, int]:
    """Make the key of a tensor's random masks, two words of 32 bits, from the seed and the name of the tensor.

    The stream of the generator is the index of the model in the order of the method, and the word is the index of the
    element, so that masks depend on nothing else.
    """
    digest = xxhash.xxh3_64_intdigest(problem.name.encode("utf-8", "surrogatepass"), seed=problem.seed % 2**64)
    return digest & 0xFFFFFFFF, digest >> 32

"""What sparsifying methods have in common: the parameters that mergekit defines, and the program."""

from __future__ import annotations

from collections.abc import Callable

from dovetail.engine.methods.keeps import Keep
from dovetail.engine.methods.method import REQUIRED, Parameter
from dovetail.engine.methods.parameters import (
    LARGEST,
    merge_number,
    model_number,
    model_weights,
    sum_float32,
    task_vector_codes,
)
from dovetail.engine.methods.program import Problem
from dovetail.engine.methods.sparsified import SparsifiedSum

SMALLEST_DIVISOR = 1e-8
"""A sum of weights below this is not divided by, as in mergekit."""

WEIGHT = Parameter("weight", "float", REQUIRED, "factor of the model's kept changes", "model")
DENSITY = Parameter("density", "float", 1.0, "part of the changes that is kept, from 0 to 1", "model")
LAMBDA = Parameter("lambda", "float", 1.0, "factor of the sum of all changes")
INT8_MASK = Parameter("int8_mask", "bool", False, "no effect; accepted as mergekit has it")


def normalize(default: bool) -> Parameter:
    """Make the parameter `normalize`, with the default of a method."""
    return Parameter("normalize", "bool", default, "divide the sum of changes by the sum of the weights that count")


def rescale(default: bool) -> Parameter:
    """Make the parameter `rescale`, with the default of a method."""
    return Parameter("rescale", "bool", default, "scale what is kept to the sum of magnitudes of the whole change")


def density_of(problem: Problem, model: int) -> float:
    """Read the density of a model; a density above 1 keeps everything, as 1 does.

    Raises
    ------
    RecipeError
        The density is negative or not a number.

    """
    return min(1.0, model_number(problem, model, "density", 0.0, LARGEST))


def divisor_of(weights: tuple[float, ...]) -> float:
    """Sum the weights; 1 if the sum is too small to divide by."""
    divisor = sum_float32(weights)
    return 1.0 if abs(divisor) < SMALLEST_DIVISOR else divisor


def make_sparsified(problem: Problem, keep: Callable[[Problem, int], Keep], *, voting: bool) -> SparsifiedSum:
    """Make the program of one tensor.

    Parameters
    ----------
    problem
        The tensor.
    keep
        Function that tells what a model keeps of the tensor.
    voting
        Whether signs are elected.

    Raises
    ------
    RecipeError
        A parameter cannot be used.

    """
    weights = model_weights(problem)
    return SparsifiedSum(
        length=problem.length,
        codes=task_vector_codes(problem),
        out_code=problem.out_code,
        weights=weights,
        keeps=tuple(keep(problem, model) for model in range(len(weights))),
        rescale=bool(problem.parameters["rescale"]),
        voting=voting,
        normalize=bool(problem.parameters["normalize"]),
        divisor=divisor_of(weights),
        factor=merge_number(problem, "lambda"),
    )

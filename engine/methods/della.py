"""DELLA: keep changes at random, strong ones of a row more likely, https://arxiv.org/abs/2406.11617.

A row is a run along the last dimension, which holds the inputs of one output neuron; a vector is one row. mergekit uses
the same rows for tensors of two dimensions; for tensors of more, it ranks along the second dimension, which is not a
row. mergekit also computes ranks in the dtype of the merge, so that long rows of bfloat16 have only a few distinct
ranks; here ranks are exact.
"""

from __future__ import annotations

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.keeps import Keep, KeepAtRandom, KeepByRank, KeepEverything
from dovetail.engine.methods.method import Masks, Method, Parameter
from dovetail.engine.methods.parameters import describe_model, model_number, random_key
from dovetail.engine.methods.program import Problem
from dovetail.engine.methods.sparsified import SparsifiedSum
from dovetail.engine.methods.task_vector_parameters import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    density_of,
    make_sparsified,
    normalize,
    rescale,
)


def keep_by_rank(problem: Problem, model: int) -> Keep:
    """Keep each change with a probability between density - epsilon and density + epsilon, by its rank in its row.

    Raises
    ------
    RecipeError
        A probability would lie outside 0 to 1.

    """
    density, epsilon = density_of(problem, model), model_number(problem, model, "epsilon")
    if density == 1.0:
        return KeepEverything()
    key = random_key(problem)
    if density == 0.0 or epsilon == 0.0:
        return KeepAtRandom(density, key, model)
    if not 0.0 < density - abs(epsilon) <= density + abs(epsilon) < 1.0:
        raise RecipeError(
            f"density {density:g} and epsilon {epsilon:g} for {describe_model(problem, model)} give probabilities from "
            f"{density - epsilon:g} to {density + epsilon:g}",
            "numbers between 0 and 1",
            "make 'epsilon' smaller",
        )
    row_length = max(1, problem.shape[-1] if problem.shape else 1)
    return KeepByRank(density, epsilon, row_length, key, model)


def make_linear(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `della_linear`."""
    return make_sparsified(problem, keep_by_rank, voting=False)


def make_ties(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `della`."""
    return make_sparsified(problem, keep_by_rank, voting=True)


_EPSILON = Parameter(
    "epsilon", "float", 0.15, "how far the probabilities of a row's weakest and strongest are from density", "model"
)

DELLA = Method(
    name="della",
    summary="Keep changes at random, the stronger the likelier, rescale them and elect signs: "
    "use it as a gentler TIES that does not cut off at one magnitude.",
    paper="https://arxiv.org/abs/2406.11617",
    base="origin",
    parameters=(WEIGHT, DENSITY, _EPSILON, LAMBDA, normalize(True), rescale(True), INT8_MASK),
    program=make_ties,
    masks=Masks("random changes by rank", make_ties),
)
"""The row of the table of methods."""

DELLA_LINEAR = Method(
    name="della_linear",
    summary="Keep changes at random, the stronger the likelier, rescale them and add them: "
    "use it as a gentler magnitude pruning.",
    paper="https://arxiv.org/abs/2406.11617",
    base="origin",
    parameters=(WEIGHT, DENSITY, _EPSILON, LAMBDA, normalize(False), rescale(True), INT8_MASK),
    program=make_linear,
    masks=Masks("random changes by rank", make_linear),
)
"""The row of the table of methods."""

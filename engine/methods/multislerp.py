"""Multi-SLERP: barycentric interpolation of any number of models on the sphere.

https://goddard.blog/posts/multislerp-wow-what-a-cool-idea
"""

from __future__ import annotations

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.geometry import MultiSlerp
from dovetail.engine.methods.linear import Linear
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.mixture import Combination, Mixture
from dovetail.engine.methods.parameters import merge_number, model_weights, sum_float32
from dovetail.engine.methods.program import Problem, Program


def make_program(problem: Problem) -> Program:
    """Make the program of one tensor; a single model is copied unchanged.

    Raises
    ------
    RecipeError
        A weight cannot be used, or the weights add up to zero and are to be divided by their sum.

    """
    weights, epsilon = model_weights(problem), merge_number(problem, "eps", 0.0)
    if len(weights) == 1:
        return Linear(problem.model_codes, problem.out_code, (1.0,), 1.0)
    if problem.parameters["normalize_weights"]:
        total = sum_float32(weights)
        if total == 0:
            raise RecipeError(
                f"the weights for tensor {problem.name!r} add up to 0",
                "another sum, as 'normalize_weights' divides by it",
                "correct the weights or set 'normalize_weights: false'",
            )
        weights = tuple(weight / total for weight in weights)
    has_base = problem.base_code is not None
    codes = problem.model_codes if problem.base_code is None else (problem.base_code, *problem.model_codes)
    geometry = MultiSlerp(weights, epsilon)
    sources = Combination(has_base, codes, problem.out_code, geometry, relative=has_base, adds=has_base)
    return Mixture(problem.name, problem.length, sources)


MULTISLERP = Method(
    name="multislerp",
    summary="Take the mean direction and the mean length of models, or of task vectors if there is a base model: "
    "use it to blend more than two models as SLERP blends two.",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base="optional",
    parameters=(
        Parameter("weight", "float", REQUIRED, "the model's share", "model"),
        Parameter("normalize_weights", "bool", True, "divide the weights by their sum"),
        Parameter("eps", "float", 1e-8, "added to lengths before dividing by them"),
    ),
    program=make_program,
    divides_weights="normalize_weights",
)
"""The row of the table of methods."""

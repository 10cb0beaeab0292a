"""The Karcher mean: the Riemannian mean of the models' directions, https://arxiv.org/abs/2603.04972."""

from __future__ import annotations

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.geometry import Karcher
from dovetail.engine.methods.linear import Linear
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.mixture import Combination, Mixture
from dovetail.engine.methods.parameters import merge_number
from dovetail.engine.methods.program import Problem, Program


def make_program(problem: Problem) -> Program:
    """Make the program of one tensor; a single model is copied unchanged.

    Raises
    ------
    RecipeError
        `max_iter` or `tol` cannot be used.

    """
    steps, tolerance = int(problem.parameters["max_iter"]), merge_number(problem, "tol", 0.0)
    if steps < 0:
        raise RecipeError(f"max_iter is {steps}", "a whole number from 0", "correct 'max_iter' in the recipe")
    codes = problem.model_codes
    if len(codes) == 1:
        return Linear(codes, problem.out_code, (1.0,), 1.0)
    geometry = Karcher(len(codes), steps, tolerance)
    sources = Combination(False, codes, problem.out_code, geometry, relative=False, adds=False)
    return Mixture(problem.name, problem.length, sources)


KARCHER = Method(
    name="karcher",
    summary="Take the mean of the models' directions on the sphere, and their mean length: "
    "use it to average models that are farther apart than model soups like.",
    paper="https://arxiv.org/abs/2603.04972",
    base="member",
    parameters=(
        Parameter("max_iter", "int", 10, "most steps of the iteration"),
        Parameter("tol", "float", 1e-5, "length of a step that ends it"),
    ),
    program=make_program,
    by_name=False,
)
"""The row of the table of methods."""

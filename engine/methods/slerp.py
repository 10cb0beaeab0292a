"""Spherical interpolation of two models, https://en.wikipedia.org/wiki/Slerp."""

from __future__ import annotations

from dovetail.engine.methods.geometry import Slerp
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.mixture import Combination, Mixture
from dovetail.engine.methods.parameters import merge_number, task_vector_codes
from dovetail.engine.methods.program import Problem


def make_program(problem: Problem) -> Mixture:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        `t` cannot be used.

    """
    geometry = Slerp(merge_number(problem, "t"))
    sources = Combination(True, task_vector_codes(problem), problem.out_code, geometry, relative=False, adds=False)
    return Mixture(problem.name, problem.length, sources)


SLERP = Method(
    name="slerp",
    summary="Interpolate between the base model and one other along the arc of their directions: "
    "use it to blend two fine-tunes of one model.",
    paper="https://en.wikipedia.org/wiki/Slerp",
    base="pair",
    parameters=(Parameter("t", "float", REQUIRED, "0 for the base model, 1 for the other"),),
    program=make_program,
    by_name=False,
    min_models=1,
    max_models=1,
)
"""The row of the table of methods."""

"""NuSLERP: spherical interpolation by weights, of models or of task vectors, by whole tensors, rows or columns.

mergekit defines the method, and calls interpolation along the first dimension, by columns, ``nuslerp_row_wise``.
"""

from __future__ import annotations

from math import prod

from dovetail.engine.methods.geometry import NuSlerp
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.mixture import Combination, Mixture
from dovetail.engine.methods.parameters import model_weights
from dovetail.engine.methods.program import Problem, Program
from dovetail.engine.methods.row_mixture import ColumnMixture, RowMixture

SMALLEST_SUM = 1e-6
"""If the weights add up to less than this, they count as equal, as in mergekit."""


def make_program(problem: Problem) -> Program:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A weight cannot be used.

    """
    first, second = model_weights(problem)
    total = first + second
    geometry = NuSlerp(0.5 if abs(total) < SMALLEST_SUM else second / total)
    has_base = problem.base_code is not None
    codes = problem.model_codes if problem.base_code is None else (problem.base_code, *problem.model_codes)
    shape, length = problem.shape, problem.length
    sources = Combination(has_base, codes, problem.out_code, geometry, relative=has_base, adds=has_base)
    if problem.parameters["nuslerp_flatten"] or len(shape) < 2:
        return Mixture(problem.name, length, sources)
    if problem.parameters["nuslerp_row_wise"]:
        return ColumnMixture(length, max(1, prod(shape[1:])), sources)
    return RowMixture(length, max(1, shape[-1]), sources)


NUSLERP = Method(
    name="nuslerp",
    summary="Interpolate two models, or their task vectors if there is a base model, along the arc between them: "
    "use it as a SLERP with weights.",
    paper="https://github.com/arcee-ai/mergekit",
    base="optional",
    parameters=(
        Parameter("weight", "float", REQUIRED, "the model's share", "model"),
        Parameter("nuslerp_flatten", "bool", True, "take the tensor as one vector; false: one a row"),
        Parameter("nuslerp_row_wise", "bool", False, "without flattening: one vector a column, as mergekit means it"),
    ),
    program=make_program,
    by_name=False,
    min_models=2,
    max_models=2,
)
"""The row of the table of methods."""

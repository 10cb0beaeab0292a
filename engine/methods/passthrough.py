"""Passthrough: the tensors of one model are taken unchanged, which serves to stack layers of several models."""

from __future__ import annotations

from dovetail.engine.methods.linear import Linear
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import model_number
from dovetail.engine.methods.program import Problem


def make_program(problem: Problem) -> Linear:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        `scale` cannot be used.

    """
    scale = 1.0 if problem.model_parameters[0]["scale"] is None else model_number(problem, 0, "scale")
    return Linear(problem.model_codes, problem.out_code, (scale,), 1.0)


PASSTHROUGH = Method(
    name="passthrough",
    summary="Take one model as it is, scaled if asked: use it with slices to stack layers of several models.",
    paper="https://github.com/arcee-ai/mergekit",
    base="member",
    parameters=(
        Parameter("scale", "float", None, "factor of the model's values; none: take them as they are", "model"),
    ),
    program=make_program,
    by_name=False,
    max_models=1,
)
"""The row of the table of methods."""

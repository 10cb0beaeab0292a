"""Model Stock: a point between the base and the mean of fine-tunes, chosen by their angle.

https://arxiv.org/abs/2403.19522
"""

from __future__ import annotations

from dovetail.engine.methods.geometry import ModelStock
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.mixture import Combination, Mixture
from dovetail.engine.methods.parameters import task_vector_codes
from dovetail.engine.methods.program import Problem, Program
from dovetail.engine.methods.row_mixture import RowMixture


def make_program(problem: Problem) -> Program:
    """Make the program of one tensor."""
    codes, geometry = task_vector_codes(problem), ModelStock(len(problem.model_codes))
    sources = Combination(True, codes, problem.out_code, geometry, relative=True, adds=False)
    if problem.parameters["filter_wise"] and len(problem.shape) > 1:
        return RowMixture(problem.length, max(1, problem.shape[-1]), sources)
    return Mixture(problem.name, problem.length, sources)


MODEL_STOCK = Method(
    name="model_stock",
    summary="Average fine-tunes and move towards the base as far as their angle says: "
    "use it for a few fine-tunes for the same task, with nothing to tune.",
    paper="https://arxiv.org/abs/2403.19522",
    base="origin",
    parameters=(Parameter("filter_wise", "bool", False, "an angle for every row instead of one for the tensor"),),
    program=make_program,
    by_name=False,
    min_models=2,
)
"""The row of the table of methods."""

"""Model Breadcrumbs: drop the largest and the smallest changes of every tensor, https://arxiv.org/abs/2312.06795."""

from __future__ import annotations

from dovetail.engine.methods.keeps import Keep, KeepBand, KeepEverything
from dovetail.engine.methods.method import Masks, Method, Parameter
from dovetail.engine.methods.parameters import model_number
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


def keep_middle(problem: Problem, model: int) -> Keep:
    """Drop the int(gamma * length) largest changes and keep the next int(density * length) of them.

    If too few changes would be left to keep, fewer are dropped, as in mergekit.
    """
    density, gamma = density_of(problem, model), model_number(problem, model, "gamma", 0.0, 1.0)
    if density == 1.0:
        return KeepEverything()
    kept = int(density * problem.length)
    skipped = min(int(gamma * problem.length), problem.length - kept)
    return KeepBand(skipped, skipped + kept) if kept else KeepBand(0, 0)


def make_linear(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `breadcrumbs`."""
    return make_sparsified(problem, keep_middle, voting=False)


def make_ties(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `breadcrumbs_ties`."""
    return make_sparsified(problem, keep_middle, voting=True)


_GAMMA = Parameter("gamma", "float", 0.01, "part of the changes, the largest, that is dropped as outliers", "model")
_PARAMETERS = (WEIGHT, DENSITY, _GAMMA, LAMBDA, normalize(False), rescale(False), INT8_MASK)

BREADCRUMBS = Method(
    name="breadcrumbs",
    summary="Keep each model's changes of middling strength and add them: "
    "use it to merge many fine-tunes, whose outliers would add up.",
    paper="https://arxiv.org/abs/2312.06795",
    base="origin",
    parameters=_PARAMETERS,
    program=make_linear,
    by_name=False,
    masks=Masks("changes of middling strength", make_linear),
)
"""The row of the table of methods."""

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    summary="Keep each model's changes of middling strength and elect signs as TIES does: "
    "use it for many fine-tunes that disagree.",
    paper="https://arxiv.org/abs/2312.06795",
    base="origin",
    parameters=_PARAMETERS,
    program=make_ties,
    by_name=False,
    masks=Masks("changes of middling strength", make_ties),
)
"""The row of the table of methods."""

"""TIES, https://arxiv.org/abs/2306.01708, and plain magnitude pruning: the strongest changes of every tensor."""

from __future__ import annotations

from dovetail.engine.methods.keeps import Keep, KeepBand, KeepEverything
from dovetail.engine.methods.method import Masks, Method
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


def keep_strongest(problem: Problem, model: int) -> Keep:
    """Keep the int(density * length) strongest changes, but at least one if the density is not 0, as in mergekit."""
    density = density_of(problem, model)
    if density == 1.0:
        return KeepEverything()
    return KeepBand(0, max(1, int(density * problem.length)) if density > 0 else 0)


def make_ties(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `ties`."""
    return make_sparsified(problem, keep_strongest, voting=True)


def make_magnitude(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `magnitude`."""
    return make_sparsified(problem, keep_strongest, voting=False)


TIES = Method(
    name="ties",
    summary="Keep each model's strongest changes and, at every place, only those of the elected sign: "
    "use it when fine-tunes pull the same weights in different directions.",
    paper="https://arxiv.org/abs/2306.01708",
    base="origin",
    parameters=(WEIGHT, DENSITY, LAMBDA, normalize(True), rescale(False), INT8_MASK),
    program=make_ties,
    by_name=False,
    masks=Masks("the strongest changes", make_ties),
)
"""The row of the table of methods."""

MAGNITUDE = Method(
    name="magnitude",
    summary="Keep each model's strongest changes of the whole tensor and add them: "
    "the pruning that the CABS paper compares with; use it where fine-tunes hardly meet.",
    paper="https://arxiv.org/abs/2503.01874",
    base="origin",
    parameters=(WEIGHT, DENSITY, LAMBDA, normalize(False), rescale(False), INT8_MASK),
    program=make_magnitude,
    by_name=False,
    masks=Masks("the strongest changes", make_magnitude),
)
"""The row of the table of methods."""

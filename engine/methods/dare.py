"""DARE: drop changes at random and rescale the rest, https://arxiv.org/abs/2311.03099."""

from __future__ import annotations

from dovetail.engine.methods.keeps import Keep, KeepAtRandom, KeepEverything
from dovetail.engine.methods.method import Masks, Method
from dovetail.engine.methods.parameters import random_key
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


def keep_at_random(problem: Problem, model: int) -> Keep:
    """Keep each change with probability `density`."""
    density = density_of(problem, model)
    return KeepEverything() if density == 1.0 else KeepAtRandom(density, random_key(problem), model)


def make_linear(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `dare_linear`."""
    return make_sparsified(problem, keep_at_random, voting=False)


def make_ties(problem: Problem) -> SparsifiedSum:
    """Make the program of one tensor for `dare_ties`."""
    return make_sparsified(problem, keep_at_random, voting=True)


_PARAMETERS = (WEIGHT, DENSITY, LAMBDA, normalize(False), rescale(True), INT8_MASK)

DARE_LINEAR = Method(
    name="dare_linear",
    summary="Keep changes at random, rescale them and add them: "
    "use it to thin out fine-tunes whose changes are many and small.",
    paper="https://arxiv.org/abs/2311.03099",
    base="origin",
    parameters=_PARAMETERS,
    program=make_linear,
    masks=Masks("random changes", make_linear),
)
"""The row of the table of methods."""

DARE_TIES = Method(
    name="dare_ties",
    summary="Keep changes at random, rescale them and elect signs as TIES does: "
    "use it for several such fine-tunes that disagree.",
    paper="https://arxiv.org/abs/2311.03099",
    base="origin",
    parameters=_PARAMETERS,
    program=make_ties,
    masks=Masks("random changes", make_ties),
)
"""The row of the table of methods."""

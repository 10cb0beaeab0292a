"""n:m pruning without conflict awareness: the balanced half of CABS alone, https://arxiv.org/abs/2503.01874."""

from __future__ import annotations

from dataclasses import replace

from dovetail.engine.methods.cabs import CABS, make_program
from dovetail.engine.methods.marking import Marking
from dovetail.engine.methods.method import Masks, Method
from dovetail.engine.methods.program import Problem

_FIXED = {"overlap": "forbid", "conflict_aware": False, "balanced": True}
"""The options with which CABS is this method."""


def make_pruning(problem: Problem) -> Marking:
    """Make the program of one tensor.

    Raises
    ------
    RecipeError
        A model's n:m or weight cannot be used.

    """
    return make_program(replace(problem, parameters={**problem.parameters, **_FIXED}))


NM_PRUNING = Method(
    name="nm_pruning",
    summary="Keep each model's strongest changes, n of every m, and add them: "
    "CABS without conflict awareness, to see what that adds; use it for hardware that wants n:m sparse changes.",
    paper="https://arxiv.org/abs/2503.01874",
    base="origin",
    parameters=tuple(row for row in CABS.parameters if row.name in ("weight", "n", "m", "granularity", "consensus")),
    program=make_pruning,
    by_name=False,
    masks=Masks("nm_pruning", make_pruning),
)
"""The row of the table of methods."""

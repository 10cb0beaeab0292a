"""What methods with random masks keep, found out from their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.program import Problem
from dovetail.engine.methods.registry import METHODS
from tests.engine.kernels.drive import make_problem, run_program

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


def describe(
    method: str,
    base: NDArray[Any] | None,
    models: Sequence[NDArray[Any]],
    parameters: Mapping[str, Any],
    model_parameters: Sequence[Mapping[str, Any]],
    out_dtype: Any = np.float32,
    **more: Any,
) -> Problem:
    """Describe a tensor to a method, with the method's defaults for all that is not given."""
    defaults = {row.name: row.default for row in METHODS[method].parameters if row.scope == "model"}
    each = [{**defaults, **one} for one in model_parameters]
    problem = make_problem(method, base, models, each, np.dtype(out_dtype), **parameters)
    return replace(problem, **more)


def run(problem: Problem, method: str, base: Any, models: Any, cuts: Sequence[int] = (), widen: int = 0) -> Any:
    """Run a method's program."""
    return run_program(problem, METHODS[method].program(problem), base, models, cuts, widen)[0]


def found_masks(
    method: str,
    taus: Sequence[Floats],
    model_parameters: Sequence[Mapping[str, Any]],
    cuts: Sequence[int] = (),
    **more: Any,
) -> list[Mask]:
    """Find what each model keeps of its task vector, one model after the other; zeros count as not kept.

    The base is zero and only one weight is not: what comes out is what that model keeps.
    """
    base = np.zeros_like(taus[0])
    plain = {"rescale": False, "normalize": False, "lambda": 1.0}
    masks = []
    for model in range(len(taus)):
        each = [{**one, "weight": float(i == model)} for i, one in enumerate(model_parameters)]
        problem = describe(method, base, taus, plain, each, **more)
        masks.append(np.asarray(run(problem, method, base, taus, cuts) != 0))
    return masks


def both_masks(
    method: str, taus: Sequence[Floats], each: Sequence[Mapping[str, Any]], cuts: Sequence[int] = (), **more: Any
) -> tuple[Mask, Mask]:
    """Find what two models keep in one merge, from task vectors of whole numbers from 1 to 1023."""
    base = np.zeros_like(taus[0])
    plain = {"rescale": False, "normalize": False, "lambda": 1.0}
    weighted = [{**one, "weight": weight} for one, weight in zip(each, (1.0, 1024.0), strict=True)]
    problem = describe(method, base, taus, plain, weighted, **more)
    merged = run(problem, method, base, taus, cuts).astype(np.int64)
    return merged % 1024 != 0, merged >= 1024

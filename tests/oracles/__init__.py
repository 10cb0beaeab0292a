"""The merge methods from their papers' and mergekit's formulas, slowly, on whole tensors, in plain numpy.

Nothing here imports the code under test. What is elementwise once elements are selected is defined to the bit, in
float32, every operation rounded: a model's contribution is ``weight * s(tau)``; contributions add up in the order of
the models; the sum is divided (``normalize``), then multiplied by ``lambda``, then added to the base. What depends on a
whole tensor or row (norms, dot products, variances) is found in float64. Methods of directions (slerp, nuslerp,
multislerp, karcher, model_stock) stay in float64 until one rounding at the end: they give the right value, to which any
implementation in float32 comes within a few units in the last place.

Equal magnitudes: the lower index counts as the larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.oracles import directions, elementwise, selecting, task_vectors
from tests.oracles.result import Array, Case, Floats, Mask, Result, largest

__all__ = ["DEFAULTS", "ORACLES", "RANDOM", "Result", "explain", "oracle"]

ORACLES: dict[str, Callable[[Case], Result]] = {
    "linear": elementwise.linear,
    "passthrough": elementwise.passthrough,
    "nearswap": elementwise.nearswap,
    "ram": elementwise.ram,
    "ramplus_tl": elementwise.ramplus_tl,
    "slerp": directions.slerp,
    "nuslerp": directions.nuslerp,
    "multislerp": directions.multislerp,
    "karcher": directions.karcher,
    "model_stock": directions.model_stock,
    "sce": selecting.sce,
    "arcee_fusion": selecting.arcee_fusion,
    **dict.fromkeys(task_vectors.FAMILY, task_vectors.task_vector_method),
}
"""By the name of the method."""

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
"""Methods with random masks."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "passthrough": {"scale": None},
    "nearswap": {},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    "slerp": {},
    "nuslerp": {"nuslerp_row_wise": False, "nuslerp_flatten": True},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False},
    "sce": {"select_topk": 1.0, "int8_mask": False},
    "arcee_fusion": {},
    **task_vectors.DEFAULTS,
}
"""Values of parameters that are not given, those of models included."""


def explain(
    method: str,
    base: Array | None,
    models: Sequence[Array],
    parameters: Mapping[str, Any],
    model_parameters: Sequence[Mapping[str, Any]] = (),
    *,
    masks: Sequence[Mask] | None = None,
    uniform: Callable[[int, int], float] | None = None,
) -> Result:
    """Merge one tensor and say how.

    Parameters
    ----------
    method
        Its name.
    base
        The base model's tensor: the origin of task vectors, or slerp's, nearswap's and arcee_fusion's first model.
        None for methods that treat all models alike.
    models
        The models' tensors.
    parameters
        Parameters of the merge; `DEFAULTS` stand for those that are missing.
    model_parameters
        Parameters of each model.
    masks
        For methods with random masks: what each model keeps.
    uniform
        Instead of `masks`: a number from [0, 1) by model and index; what is below the probability is kept.

    """
    given = model_parameters or [{}] * len(models)
    assert len(given) == len(models)
    defaults = DEFAULTS[method]
    arrays = tuple(np.asarray(model).astype(np.float32) for model in models)
    case = Case(
        method=method,
        base=None if base is None else np.asarray(base).astype(np.float32),
        models=arrays,
        parameters={**defaults, **parameters},
        model_parameters=tuple({**defaults, **each} for each in given),
        random_masks=None if masks is None else tuple(masks),
        uniform=uniform,
    )
    if not arrays[0].size:
        return Result(arrays[0], np.zeros(arrays[0].shape))
    with np.errstate(all="ignore"):
        result = ORACLES[method](case)
    inputs = arrays if case.base is None else (case.base, *arrays)
    return replace(result, operands=largest(result.operands, *inputs))


def oracle(
    method: str,
    base: Array | None,
    models: Sequence[Array],
    parameters: Mapping[str, Any],
    model_parameters: Sequence[Mapping[str, Any]] = (),
    **random: Any,
) -> Floats:
    """Merge one tensor: the values in float32, not yet rounded to an output dtype. See `explain`."""
    return explain(method, base, models, parameters, model_parameters, **random).output

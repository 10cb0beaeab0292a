"""The merge methods by the formulas of their papers and of mergekit, slowly, on whole tensors, in plain numpy.

Nothing here imports the code under test.

Once elements are selected, elementwise arithmetic is defined to the bit, in float32 with every operation rounded: the
contribution of a model is ``weight * s(tau)``; contributions are added in the order of the models; the sum is divided
(``normalize``), then multiplied by ``lambda``, then added to the base. Quantities of a whole tensor or row (norms, dot
products, variances) are computed in float64. Methods of directions (slerp, nuslerp, multislerp, karcher, model_stock)
compute in float64 and round once at the end; their result is the right value, and an implementation in float32 comes
within a few units in the last place of it.

Of elements with equal magnitudes, the one with the lower index counts as the larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.oracles import directions, elementwise, selecting, spectral, task_vectors
from tests.oracles.result import Array, Case, Floats, Mask, Result, largest

__all__ = ["DEFAULTS", "ORACLES", "RANDOM", "Result", "explain", "oracle"]

ORACLES: dict[str, Callable[[Case], Result]] = {
    "linear": elementwise.linear,
    "passthrough": elementwise.passthrough,
    "nearswap": elementwise.nearswap,
    "ram": elementwise.ram,
    "ramplus_tl": elementwise.ramplus_tl,
    "consensus_ta": elementwise.consensus_ta,
    "tsv_m": spectral.tsv_m,
    "iso_c": spectral.iso_c,
    "slerp": directions.slerp,
    "nuslerp": directions.nuslerp,
    "multislerp": directions.multislerp,
    "karcher": directions.karcher,
    "model_stock": directions.model_stock,
    "sce": selecting.sce,
    "arcee_fusion": selecting.arcee_fusion,
    **dict.fromkeys(task_vectors.FAMILY, task_vectors.task_vector_method),
}
"""The oracle of each method, by the method's name."""

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
"""Methods with random masks."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "passthrough": {"scale": None},
    "nearswap": {},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    "consensus_ta": {"weight": 1.0, "tall_mask_lambda": 0.4, "k": 2, "lambda": 1.0},
    "tsv_m": {"weight": 1.0, "lambda": 1.0, "decompose": "matrices"},
    "iso_c": {"weight": 1.0, "lambda": 1.0, "decompose": "matrices"},
    "slerp": {},
    "nuslerp": {"nuslerp_row_wise": False, "nuslerp_flatten": True},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False},
    "sce": {"select_topk": 1.0, "int8_mask": False},
    "arcee_fusion": {},
    **task_vectors.DEFAULTS,
}
"""Default values of the parameters of each method, those of models included."""


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
    """Merge one tensor, and give masks and operands with the result.

    Parameters
    ----------
    method
        Name of the method.
    base
        The base model's tensor: the origin of task vectors or, for slerp, nearswap and arcee_fusion, the first model.
        None for methods that treat all models alike.
    models
        The models' tensors.
    parameters
        Parameters of the merge; missing ones have the values in `DEFAULTS`.
    model_parameters
        Parameters of each model.
    masks
        For methods with random masks: the elements that each model keeps.
    uniform
        Instead of `masks`: a function from model and index to a number in [0, 1). An element is kept where the number
        is below its probability.

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
    """Merge one tensor as `explain` does, and give only the values, in float32 before they are rounded for output."""
    return explain(method, base, models, parameters, model_parameters, **random).output

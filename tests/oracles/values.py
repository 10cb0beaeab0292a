"""Hypothesis strategies for the parameters of every method, as mergekit accepts them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]


def between(low: float, high: float) -> Strategy:
    """Draw numbers as people write them, with three digits after the point."""
    return st.integers(round(low * 1000), round(high * 1000)).map(lambda thousandths: thousandths / 1000)


FLAG = st.booleans()
WEIGHT = between(-0.5, 1.5)
POSITIVE = between(0.05, 1.5)
FAMILY: dict[str, Strategy] = {
    "weight": WEIGHT,
    "lambda": st.just(1.0) | between(-1.2, 1.5),
    "normalize": FLAG,
    "rescale": FLAG,
    "int8_mask": FLAG,
}
DECOMPOSING: dict[str, Strategy] = {
    "weight": st.just(1.0) | WEIGHT,
    "lambda": FAMILY["lambda"],
    "decompose": st.sampled_from(["matrices", "all", "all", "none"]),
}
DENSITY = st.sampled_from([0.0, 1.0]) | between(0, 1)

VALUES: dict[str, dict[str, Strategy]] = {
    "linear": {"weight": POSITIVE, "normalize": FLAG},
    "passthrough": {"scale": st.none() | between(-1, 2)},
    "nearswap": {"t": st.sampled_from([1e-6, 0.0, 1.0]) | between(0.001, 0.1)},
    "ram": {"epsilon": st.sampled_from([1e-5, 0.0]) | between(0, 0.2)},
    "ramplus_tl": {
        "epsilon": st.sampled_from([1e-5]) | between(0.001, 0.2),
        "r": between(0, 1),
        "alpha": between(0, 1),
    },
    "consensus_ta": {
        "weight": st.just(1.0) | WEIGHT,
        "tall_mask_lambda": st.sampled_from([0.0, 0.4, 1.0]) | between(0.2, 0.6),
        "k": st.integers(0, 2),
        "lambda": FAMILY["lambda"],
    },
    "tsv_m": DECOMPOSING,
    "iso_c": DECOMPOSING,
    "slerp": {"t": st.sampled_from([0.0, 0.5, 1.0]) | between(-0.2, 1.2)},
    "nuslerp": {"weight": POSITIVE, "nuslerp_row_wise": FLAG, "nuslerp_flatten": FLAG},
    "multislerp": {"weight": POSITIVE, "normalize_weights": FLAG, "eps": st.sampled_from([1e-8, 1e-5, 0.01])},
    "karcher": {"max_iter": st.integers(1, 12), "tol": st.sampled_from([1e-5, 1e-4, 0.01])},
    "model_stock": {"filter_wise": FLAG},
    "sce": {"select_topk": DENSITY, "int8_mask": FLAG},
    "arcee_fusion": {},
    "task_arithmetic": {key: value for key, value in FAMILY.items() if key != "rescale"},
    "ties": {**FAMILY, "density": DENSITY},
    "breadcrumbs": {**FAMILY, "density": DENSITY, "gamma": between(0, 0.3)},
    "breadcrumbs_ties": {**FAMILY, "density": DENSITY, "gamma": between(0, 0.3)},
    "dare_linear": {**FAMILY, "density": between(0.1, 1)},
    "dare_ties": {**FAMILY, "density": between(0.1, 1)},
    "della": {**FAMILY, "density": st.just(1.0) | between(0.3, 0.7), "epsilon": between(0, 0.25)},
    "della_linear": {**FAMILY, "density": st.just(1.0) | between(0.3, 0.7), "epsilon": between(0, 0.25)},
}
"""The strategy of each parameter, by method and parameter."""

COUNTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("slerp", "nearswap", "arcee_fusion", "passthrough"), (1, 1)),
    "nuslerp": (2, 2),
    "model_stock": (2, 4),
    "consensus_ta": (2, 4),
    "sce": (1, 4),
}
"""Least and greatest number of models, without the base, of methods that do not take any number."""

BASELESS = ("linear", "karcher", "passthrough")
"""Methods that treat a base model like any other."""
EITHER = ("nuslerp", "multislerp")
"""Methods that work with or without a base model."""
PER_MODEL: dict[str, tuple[str, ...]] = {
    method: tuple(
        key
        for key in values
        if key in ("weight", "density", "gamma", "scale", "tall_mask_lambda")
        or (key == "epsilon" and method.startswith("della"))
    )
    for method, values in VALUES.items()
}
"""Parameters that have a value for each model, by method."""

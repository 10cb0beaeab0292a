"""Checkpoints with awkward tensors: odd shapes, ties in magnitude, exact zeros, -0.0, integers, any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import Tensors, write_checkpoint

SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (37, 29),
    "model.layers.0.self_attn.q_proj.weight": (16, 31),
    "model.layers.0.scale": (),
    "model.layers.1.self_attn.q_proj.weight": (16, 31),
    "model.layers.1.mlp.experts.weight": (3, 5, 7, 2),
    "model.layers.1.nothing": (4, 0, 3),
    "model.layers.2.self_attn.q_proj.weight": (16, 31),
    "model.norm.weight": (61,),
}
"""Tensors of 0 to 4 dimensions; no length but one is a multiple of a usual block."""

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Every dtype that is merged, by its name in a recipe."""


def base_tensors(dtype: str = "float32", seed: int = 0) -> dict[str, NDArray[Any]]:
    """Make a base model; some of its values are 0 and -0.0."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        values = np.asarray(random.standard_normal(shape))
        values = np.where(random.random(shape) < 0.1, np.where(random.random(shape) < 0.5, 0.0, -0.0), values)
        tensors[name] = values.astype(DTYPES[dtype])
    return tensors


def tuned_tensors(base: Tensors, seed: int, dtype: str = "float32") -> dict[str, NDArray[Any]]:
    """Make a fine-tune: a third of the changes are exactly zero, and many of the others have equal magnitudes."""
    random = np.random.default_rng((7, seed))
    tensors = {}
    for name, values in base.items():
        step = random.integers(-6, 7, values.shape) * 0.0625
        changed = np.where(random.random(values.shape) < 0.3, 0.0, step) + values.astype(np.float64)
        tensors[name] = np.asarray(changed).astype(DTYPES[dtype])
    return tensors


def write_family(home: Path, base: Tensors, models: Sequence[Tensors], *, shards: int = 1) -> tuple[Path, list[Path]]:
    """Write a base model and its fine-tunes; give their folders."""
    folders = [
        write_checkpoint(home / name, tensors, shards=shards)
        for name, tensors in (("base", base), *((f"model{index}", model) for index, model in enumerate(models, 1)))
    ]
    return folders[0], folders[1:]


def same_bits(expected: NDArray[Any], actual: NDArray[Any]) -> bool:
    """Whether two tensors have the same dtype, shape and bits."""
    return (
        expected.dtype == actual.dtype
        and expected.shape == actual.shape
        and np.ascontiguousarray(expected).tobytes() == np.ascontiguousarray(actual).tobytes()
    )

"""Arcee Fusion where rows hardly differ: there, float32 has nothing but rounding to tell changes apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.engine.methods.probing import describe, run
from tests.oracles.selecting import fusion_threshold, importance

Floats = NDArray[np.float32]


def importance_in_float32(base: Floats, model: Floats) -> Floats:
    """Compute the same as mergekit 0.1.5 does, in float32 throughout."""

    def shares(values: Floats) -> Floats:
        powers = np.exp(values - values.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True) + np.float32(1e-8))

    p, q = shares(model), shares(base)
    return np.asarray(np.abs(model - base) * np.sum(p * np.log(p / q), axis=-1, keepdims=True))


def test_what_is_taken_is_decided_in_float64() -> None:
    """The changes that are taken are those of a computation in float64, where one in float32 takes others."""
    random = np.random.default_rng(0)
    base: Floats = random.standard_normal((64, 64)).astype(np.float32)
    model: Floats = (base + random.standard_normal((64, 64)) * 1e-4).astype(np.float32)
    expected, other = (
        scores >= fusion_threshold(scores) for scores in (importance(base, model), importance_in_float32(base, model))
    )
    output = run(describe("arcee_fusion", base, [model], {}, [{}]), "arcee_fusion", base, [model])
    changed = base != model
    assert np.array_equal(expected[changed], (np.asarray(output).reshape(base.shape) == model)[changed])
    assert np.mean(expected != other) > 0.05

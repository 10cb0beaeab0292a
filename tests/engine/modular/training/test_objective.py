"""The objective is the cross-entropy plus the terms, by their weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dovetail.engine.modular.training.objective import objective
from tests import naive_modular

RANDOM = np.random.default_rng(0)
MASKS = [RANDOM.random((6, 4)), RANDOM.random((6, 3))]
LABELS = [0, 1, 0, 2, 1, 0]
APART, ALIKE = naive_modular.pair_losses(MASKS, LABELS)
TERMS = {
    "cohesion": APART,
    "coupling": ALIKE,
    "affinity": APART,
    "dispersion": ALIKE,
    "compactness": (MASKS[0].mean() + MASKS[1].mean()) / 2,
    "contrast": naive_modular.contrastive(MASKS, LABELS, 0.3),
}


@pytest.mark.parametrize(
    "weights",
    [
        {"cohesion": 0.5, "coupling": 1.5},
        {"affinity": 1.0, "dispersion": 2.0, "compactness": 0.3},
        {"contrast": 0.7},
        {"coupling": 0.0},
        {},
    ],
)
def test_terms_are_added_by_their_weights(weights: dict[str, float]) -> None:
    """The sum is that of the definitions; a weight of 0 is as good as no term."""
    logits, labels = torch.from_numpy(RANDOM.random((6, 3))), torch.tensor(LABELS)
    expected = functional.cross_entropy(logits.float(), labels).item()
    expected += sum(weight * TERMS[name] for name, weight in weights.items())
    found = objective(logits, labels, [torch.from_numpy(mask) for mask in MASKS], weights, 0.3)
    assert pytest.approx(expected, abs=1e-6) == found.item()

"""Counts of kernels by class are exact, however the samples come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.training.counting import MaskCounter

WIDTHS = {"features.3": 4, "head": 2}


def masks_of(samples: int, seed: int) -> dict[str, torch.Tensor]:
    """Draw masks of which about half are 0."""
    random = torch.Generator().manual_seed(seed)
    drawn = {path: torch.rand(samples, width, generator=random) - 0.5 for path, width in WIDTHS.items()}
    return {path: torch.relu(mask) for path, mask in drawn.items()}


@settings(max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(0, 9), st.integers(1, 7))
def test_counts_as_in_a_loop_over_samples(labels: list[int], seed: int, batch: int) -> None:
    """Counts and mean soft masks are those of a loop over single samples, whatever the batches."""
    masks, counter = masks_of(len(labels), seed), MaskCounter(WIDTHS, 3)
    for start in range(0, len(labels), batch):
        part = {path: mask[start : start + batch] for path, mask in masks.items()}
        counter.add(part, torch.tensor(labels[start : start + batch]))
    for path, width in WIDTHS.items():
        counts, sums = np.zeros((3, width), np.int64), np.zeros((3, width))
        for label, row in zip(labels, masks[path].tolist(), strict=True):
            for kernel, value in enumerate(row):
                counts[label, kernel] += value > 0
                sums[label, kernel] += value
        samples = [labels.count(label) for label in range(3)]
        assert samples == counter.samples.tolist()
        assert counts.tolist() == counter.counts[path].tolist()
        means = sums / np.maximum(samples, 1)[:, None]
        assert pytest.approx(means) == counter.soft[path]


def test_activities_have_no_soft_masks() -> None:
    """What was counted of activities is handed on without means, which would not be masks."""
    counter = MaskCounter(WIDTHS, 3)
    counter.add(masks_of(2, 0), torch.tensor([0, 1]))
    assert (set(WIDTHS), set()) == (set(counter.result().soft), set(counter.result(soft=False).soft))
    assert counter.counts["head"].tolist() == counter.result(soft=False).counts["head"].tolist()


def test_foreign_labels_and_layers_are_refused() -> None:
    """A label that is no class, and masks of another network, are errors that say what was expected."""
    counter = MaskCounter(WIDTHS, 3)
    with pytest.raises(RecipeError, match=r"labels go from 0 to 3; expected 0 to 2, for 3 classes; count with"):
        counter.add(masks_of(2, 0), torch.tensor([0, 3]))
    with pytest.raises(RecipeError, match=r"masks of layer 'head' have the shape None; expected \(2, 2\)"):
        counter.add({"features.3": masks_of(2, 0)["features.3"]}, torch.tensor([0, 1]))
    assert [0, 0, 0] == counter.samples.tolist()

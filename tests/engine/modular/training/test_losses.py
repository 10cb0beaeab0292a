"""The losses against double loops, their gradients, and batches without pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dovetail.engine.modular.training.losses import (
    channel_activity,
    cohesion,
    compactness,
    contrastive,
    coupling,
    pair_terms,
)
from tests import naive_modular
from tests.engine.kernels.cases import examples

Batch = tuple[list[NDArray[np.float64]], list[int]]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Draw masks of one to three layers for one to eight samples of three classes; zeros are common, as behind ReLU."""
    samples, layers = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    values = st.one_of(st.just(0.0), st.floats(0.015625, 1.0, width=16))
    widths = [draw(st.integers(1, 5)) for _ in range(layers)]
    rows = [draw(st.lists(values, min_size=samples * width, max_size=samples * width)) for width in widths]
    masks = [np.array(row).reshape(samples, width) for row, width in zip(rows, widths, strict=True)]
    return masks, draw(st.lists(st.integers(0, 2), min_size=samples, max_size=samples))


def tensors(masks: Sequence[NDArray[np.float64]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(mask, dtype=dtype, requires_grad=True) for mask in masks]


@settings(max_examples=examples(15))
@given(batches())
def test_pairs_as_in_a_double_loop(batch: Batch) -> None:
    """Cohesion and coupling are the means over pairs that a double loop gives, whatever the batch."""
    masks, labels = batch
    expected = naive_modular.pair_losses(masks, labels)
    layers, classes = tensors(masks), torch.tensor(labels)
    assert pytest.approx(expected, abs=1e-12) == [term.item() for term in pair_terms(layers, classes)]
    assert pytest.approx(expected, abs=1e-12) == [cohesion(layers, classes).item(), coupling(layers, classes).item()]


@settings(max_examples=examples(15))
@given(batches(), st.sampled_from([0.1, 0.2, 1.0]))
def test_contrastive_as_in_a_double_loop(batch: Batch, temperature: float) -> None:
    """The contrastive loss is what a double loop gives, whatever the batch."""
    masks, labels = batch
    expected = naive_modular.contrastive(masks, labels, temperature)
    actual = contrastive(tensors(masks), torch.tensor(labels), temperature).item()
    assert pytest.approx(expected, abs=1e-9) == actual


@settings(max_examples=examples(15))
@given(batches())
def test_gradients_are_finite(batch: Batch) -> None:
    """No batch gives a gradient that is not finite: not one without pairs, nor one with masks of zeros alone."""
    masks, labels = batch
    layers, classes = tensors(masks, torch.float32), torch.tensor(labels)
    total = cohesion(layers, classes) + coupling(layers, classes) + contrastive(layers, classes) + compactness(layers)
    total.backward()
    for layer in layers:
        assert layer.grad is not None
        assert torch.isfinite(layer.grad).all()


@pytest.mark.parametrize("loss", [cohesion, coupling, contrastive])
@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [1, 1, 1]], ids=["one", "strangers", "one-class"])
def test_batch_without_pairs(loss: Callable[[list[Tensor], Tensor], Tensor], labels: list[int]) -> None:
    """Where there is nothing to compare the loss is 0, and its gradient is there and 0."""
    layer = torch.rand(len(labels), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss([layer], torch.tensor(labels))
    value.backward()
    lacks = {cohesion: [[0], [0, 1, 2]], coupling: [[0], [1, 1, 1]], contrastive: [[0], [0, 1, 2]]}[loss]
    assert layer.grad is not None
    if labels in lacks:
        assert (0.0, 0.0) == (value.item(), layer.grad.abs().max().item())
    if labels == [1, 1, 1] and loss is contrastive:
        assert pytest.approx(0.0, abs=1e-6) == value.item()  # everybody is near to everybody


@pytest.mark.parametrize("loss", [cohesion, coupling, contrastive])
def test_gradients_are_right(loss: Callable[[list[Tensor], Tensor], Tensor]) -> None:
    """Gradients are those of finite differences."""
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    random = torch.Generator().manual_seed(1)
    layers = [torch.rand(6, width, dtype=torch.float64, generator=random).requires_grad_() for width in (3, 5)]
    assert torch.autograd.gradcheck(lambda *given: loss(list(given), labels), layers)


def test_activity_of_feature_maps() -> None:
    """A channel is as active as its mean magnitude over space; features of a flat layer as their magnitude."""
    image = torch.tensor([[[[1.0, -3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert [[1.0, 0.0]] == channel_activity(image).tolist()
    assert [[2.0, 0.5]] == channel_activity(torch.tensor([[-2.0, 0.5]])).tolist()
    assert 0.5 == float(compactness([channel_activity(image)]))


def test_extremes_mean_what_the_paper_says() -> None:
    """Classes with kernels of their own cost nothing; one set of kernels for all costs the whole coupling."""
    labels = torch.tensor([0, 0, 1, 1])
    apart = [torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])]
    assert pytest.approx((0.0, 0.0), abs=1e-6) == (float(cohesion(apart, labels)), float(coupling(apart, labels)))
    assert pytest.approx(1.0) == float(coupling([torch.ones(4, 3)], labels))


def test_half_precision_is_computed_in_single() -> None:
    """Masks of mixed precision give the loss of the same numbers in float32."""
    random = torch.Generator().manual_seed(2)
    half = torch.rand(16, 8, generator=random).bfloat16()
    labels = torch.arange(16) % 3
    assert float(coupling([half.float()], labels)) == float(coupling([half], labels))

"""The losses that make a network modular: those of MwT and NeMo on masks, and those of MODA on activations.

Each of them compares samples of a batch by pairs, in every layer, by the cosine of two vectors. The pairs of a batch
are one matrix product, so that no loop runs over them. A layer's term is an average over pairs; where a batch has no
such pair it is 0, and its gradient is 0, where a mean over nothing would be NaN.

- MwT: "Modularizing while Training", https://arxiv.org/abs/2306.09376, section 3: the cohesion loss, the coupling loss,
  and their weighted sum with the cross-entropy.
- MODA: "DNN Modularization via Activation-Driven Training", https://arxiv.org/abs/2411.01074, section 3: affinity,
  dispersion and compactness.
- NeMo: "A Neuron-Level Modularizing-While-Training Approach", https://arxiv.org/abs/2508.11348, section 3: InfoNCE over
  the cosines of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_NORM = 1e-8
"""Norm at or below which a vector has no direction; its cosine with any other is 0."""


class PairTerms(NamedTuple):
    """What the pairs of a batch say, averaged over layers."""

    apart: Tensor
    """Mean of 1 minus the cosine over pairs of samples of one class, from 0 to 1 for vectors that are not negative."""
    alike: Tensor
    """Mean of the cosine over pairs of samples of different classes, from 0 to 1 likewise."""


def pair_terms(layers: Sequence[Tensor], labels: Tensor) -> PairTerms:
    """Compare the samples of a batch by pairs.

    Parameters
    ----------
    layers
        One tensor of shape (samples, channels) for each layer.
    labels
        Class of each sample, of shape (samples,).

    Returns
    -------
    PairTerms
        Two tensors of no dimension, which carry gradients.

    """
    upper = torch.ones(len(labels), len(labels), dtype=torch.bool, device=labels.device).triu(diagonal=1)
    same = (labels[:, None] == labels[None, :]) & upper
    other = upper & ~same
    same_count, other_count = same.sum(), other.sum()
    apart, alike = [], []
    for layer in layers:
        cosines = _cosines(layer)
        # 1 - mean(s) as mean(1 - s), which is 0 over no pairs
        apart.append((same_count - (cosines * same).sum()) / same_count.clamp(min=1))
        alike.append((cosines * other).sum() / other_count.clamp(min=1))
    return PairTerms(torch.stack(apart).mean(), torch.stack(alike).mean())


def cohesion(masks: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Give MwT's cohesion loss: how far the masks of samples of one class differ.

    Parameters
    ----------
    masks
        One tensor of shape (samples, kernels) for each masked layer, from 0 to 1.
    labels
        Class of each sample, of shape (samples,).

    Returns
    -------
    Tensor
        Of no dimension, from 0 to 1: mean over layers of 1 minus the mean cosine over pairs of one class.

    """
    return pair_terms(masks, labels).apart


def coupling(masks: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Give MwT's coupling loss: how far the masks of samples of different classes agree.

    Parameters
    ----------
    masks
        One tensor of shape (samples, kernels) for each masked layer, from 0 to 1.
    labels
        Class of each sample, of shape (samples,).

    Returns
    -------
    Tensor
        Of no dimension, from 0 to 1: mean over layers of the mean cosine over pairs of different classes.

    """
    return pair_terms(masks, labels).alike


def channel_activity(activation: Tensor) -> Tensor:
    """Give MODA's view of a layer: the mean magnitude of every channel.

    Parameters
    ----------
    activation
        Output of a layer's activation, of shape (samples, channels, height, width) or (samples, features).

    Returns
    -------
    Tensor
        Of shape (samples, channels), not negative.

    """
    magnitudes = activation.abs()
    return magnitudes.mean((2, 3)) if magnitudes.dim() > 2 else magnitudes


def compactness(activities: Sequence[Tensor]) -> Tensor:
    """Give MODA's compactness loss: how much is active at all.

    Parameters
    ----------
    activities
        One tensor of shape (samples, channels) for each layer, from `channel_activity`.

    Returns
    -------
    Tensor
        Of no dimension: mean over layers of the mean magnitude.

    """
    return torch.stack([_exact(layer).abs().mean() for layer in activities]).mean()


def contrastive(masks: Sequence[Tensor], labels: Tensor, temperature: float = 0.2) -> Tensor:
    """Give NeMo's contrastive loss: InfoNCE over the cosines of masks, in place of cohesion and coupling.

    The sample itself is not among the pairs. A sample that is alone with its class in the batch has nothing to be near
    to, and is left out of the mean.

    Parameters
    ----------
    masks
        One tensor of shape (samples, kernels) for each masked layer.
    labels
        Class of each sample, of shape (samples,).
    temperature
        Divides the cosines; the smaller, the more the nearest samples count.

    Returns
    -------
    Tensor
        Of no dimension, not negative: mean over layers and samples i of
        -log(sum over j of i's class of exp(s_ij / t) / sum over all j of exp(s_ij / t)), j not i.

    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels[None, :]) & ~itself
    anchors = same.any(dim=1)
    terms = []
    for layer in masks:
        cosines = _cosines(layer)
        if not anchors.any():
            terms.append(cosines.sum() * 0)
            continue
        scaled = (cosines / temperature).masked_fill(itself, -torch.inf)[anchors]
        near = scaled.masked_fill(~same[anchors], -torch.inf)
        terms.append((scaled.logsumexp(dim=1) - near.logsumexp(dim=1)).mean())
    return torch.stack(terms).mean()


def _cosines(layer: Tensor) -> Tensor:
    """Give the cosine of every sample with every other, of shape (samples, samples)."""
    vectors = _exact(layer)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    directions = vectors / torch.where(norms > LEAST_NORM, norms, torch.ones_like(norms))
    return directions @ directions.T


def _exact(layer: Tensor) -> Tensor:
    """Leave the half precision of mixed training, in which sums over pairs would lose their low bits."""
    return layer if layer.dtype == torch.float64 else layer.float()

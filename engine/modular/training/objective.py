"""What a training makes small: the cross-entropy, and the terms of its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dovetail.engine.modular.training.losses import compactness, contrastive, pair_terms


def objective(
    logits: Tensor, labels: Tensor, layers: Sequence[Tensor], weights: Mapping[str, float], temperature: float
) -> Tensor:
    """Give the loss of one batch.

    Parameters
    ----------
    logits
        Of shape (samples, classes).
    labels
        Class of each sample, of shape (samples,).
    layers
        Masks of MwT and NeMo, or activities of MODA: one tensor of shape (samples, channels) for each layer.
    weights
        Weights of the terms, by name; a term of weight 0 is not computed.
    temperature
        Of the term ``contrast``.

    Returns
    -------
    Tensor
        Of no dimension.

    """
    total = functional.cross_entropy(logits.float(), labels)
    wanted = {name: weight for name, weight in weights.items() if weight}
    terms: dict[str, Tensor] = {}
    if wanted.keys() & {"cohesion", "coupling", "affinity", "dispersion"}:
        pairs = pair_terms(layers, labels)
        terms |= {"cohesion": pairs.apart, "affinity": pairs.apart, "coupling": pairs.alike, "dispersion": pairs.alike}
    if "compactness" in wanted:
        terms["compactness"] = compactness(layers)
    if "contrast" in wanted:
        terms["contrast"] = contrastive(layers, labels, temperature)
    return total + sum((weight * terms[name] for name, weight in wanted.items()), start=torch.zeros_like(total))

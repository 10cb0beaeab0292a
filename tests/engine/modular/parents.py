"""Modular networks in folders, with counts that are drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dovetail.engine.modular import Architecture, masked_layers, trace
from dovetail.engine.modular.network.counts import Counts, write_counts
from dovetail.engine.modular.network.inputs import InputScale
from dovetail.engine.modular.network.parent import parent_to_json, write_json
from tests.engine.modular.masked import generator_tensors
from tests.engine.modular.networks import images, make

CLASSES = ("ant", "bee", "cat", "dog")
"""The classes of all of them."""


def random_counts(architecture: Architecture, seed: int, *, soft: bool) -> Counts:
    """Draw counts of 20 samples of each class, and means of masks."""
    random = np.random.default_rng(seed)
    counts, means = {}, {}
    for layer in masked_layers(architecture):
        shape = (len(CLASSES), architecture.shapes[layer][0])
        counts[layer] = random.integers(10, 21, shape)
        means[layer] = random.random(shape)
    return Counts(np.full(len(CLASSES), 20), counts, means if soft else {})


def make_parent(
    folder: Path,
    name: str = "vgg",
    seed: int = 0,
    *,
    generators: bool = True,
    classes: tuple[str, ...] = CLASSES,
    inputs: InputScale | None = None,
) -> Path:
    """Write a modular network, its weights drawn at random."""
    folder.mkdir(parents=True)
    network = make(name, seed)
    architecture = trace(network, images())
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    if generators:
        tensors |= generator_tensors(architecture, seed)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    about = {} if inputs is None else {"training": {"normalisation": inputs.to_json()}}
    write_json(folder / "modular.json", parent_to_json(architecture, classes, generators=generators, about=about))
    write_counts(folder, random_counts(architecture, seed, soft=generators))
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors by the reference reader."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")

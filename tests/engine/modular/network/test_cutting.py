"""A module computes what its parent computes masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular import mask_places, masked_layers, trace, with_generators
from dovetail.engine.modular.network.cutting import Cut, cut
from dovetail.engine.modular.pytorch.torch_network import build_network
from tests.engine.modular.masked import generator_tensors, masked_outputs, random_masks
from tests.engine.modular.networks import NETWORKS, images, make

ORDERS = (None, (2, 0), (3,))
"""Logits that modules have."""


def module_tensors(found: Cut, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take the parts of a parent's tensors that a module's tensors are."""
    taken = {}
    for name, part in found.parts.items():
        tensor = tensors[part.tensor]
        if part.rows is not None:
            tensor = tensor[torch.from_numpy(part.rows)]
        taken[name] = tensor if part.columns is None else tensor[:, torch.from_numpy(part.columns)]
    return taken


def close(wanted: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether outputs are the same but for rounding."""
    return torch.allclose(wanted, found, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("share", [0.15, 0.6])
@pytest.mark.parametrize("name", NETWORKS)
def test_module_computes_what_its_parent_computes_masked(name: str, share: float) -> None:
    """Whatever is kept, and whichever logits are wanted, a module gives the outputs of the masked parent."""
    network, given = make(name), images()
    architecture = trace(network, given)
    for seed, order in enumerate(ORDERS):
        masks = random_masks(architecture, seed, share)
        factors = {layer: torch.from_numpy(mask).float() for layer, mask in masks.items()}
        wanted = masked_outputs(network, architecture, factors, given)
        found = cut(architecture, masks, order)
        module = build_network(found.architecture, module_tensors(found, network.state_dict()))
        assert close(wanted if order is None else wanted[:, list(order)], module(given))
        assert set(found.parts) == set(found.architecture.tensor_shapes())


@pytest.mark.parametrize("name", NETWORKS)
def test_generators_are_cut_with_their_kernels(name: str) -> None:
    """A module that keeps its mask generators computes what the parent does with soft masks, of the kept kernels."""
    network, given = make(name), images()
    plain = trace(network, given)
    tensors = {**network.state_dict(), **generator_tensors(plain)}
    masks = random_masks(plain, seed=1)
    factors = {layer: torch.from_numpy(mask).float() for layer, mask in masks.items()}
    wanted = masked_outputs(network, plain, factors, given, generator_tensors(plain))
    modular = with_generators(plain)
    assert (masked_layers(plain), mask_places(plain)) == (masked_layers(modular), mask_places(modular))
    found = cut(modular, masks, (1, 3))
    assert close(wanted[:, [1, 3]], build_network(found.architecture, module_tensors(found, tensors))(given))


def test_everything_kept_is_the_parent() -> None:
    """Where nothing is left out the architecture is the parent's own, and every tensor is the whole one."""
    for name in NETWORKS:
        architecture = trace(make(name), images())
        everything = {layer: np.ones(architecture.shapes[layer][0], bool) for layer in masked_layers(architecture)}
        found = cut(architecture, everything)
        assert architecture == found.architecture
        assert {(None, None)} == {(part.rows, part.columns) for part in found.parts.values()}


def test_modules_are_smaller() -> None:
    """A fifth of the kernels takes much less than a fifth of the weights where layers follow each other."""
    architecture = trace(make("vgg"), images())
    found = cut(architecture, random_masks(architecture, 0, 0.2), (0,))
    sizes = [
        sum(int(np.prod(shape)) for name, shape in each.tensor_shapes().items() if name == "7.weight")
        for each in (architecture, found.architecture)
    ]
    assert sizes[1] * 5 < sizes[0]


@pytest.mark.parametrize(
    ("layer", "mask", "text"),
    [
        ("3", np.zeros(9, bool), "of layer '3' 0 of [9] kernels are kept; expected at least one of 9"),
        ("3", np.ones(8, bool), "of layer '3' 8 of [8] kernels are kept"),
        ("0", np.ones(6, bool), "layer '0' is no masked layer"),
    ],
    ids=["none", "number", "unmasked"],
)
def test_wrong_masks_are_refused(layer: str, mask: np.ndarray, text: str) -> None:
    """Masks must be those of the masked layers, and leave something of each."""
    architecture = trace(make("vgg"), images())
    with pytest.raises(ArchitectureError) as caught:
        cut(architecture, {**random_masks(architecture, 0), layer: mask})
    assert text in str(caught.value)


@pytest.mark.parametrize("outputs", [(), (4,), (-1,), (1, 1)], ids=["none", "beyond", "negative", "twice"])
def test_wrong_logits_are_refused(outputs: tuple[int, ...]) -> None:
    """Logits must be the network's, each once."""
    for name in ("vgg", "convolutional"):
        architecture = trace(make(name), images())
        with pytest.raises(ArchitectureError, match="are asked for; expected some of 0 to 3, once"):
            cut(architecture, random_masks(architecture, 0), outputs)

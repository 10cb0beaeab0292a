"""The parent with masks, by hooks on the original network: what modules are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dovetail.engine.modular import Architecture, mask_places, masked_layers

Masks = Mapping[str, NDArray[np.bool_]]
"""For every masked layer, which kernels are kept."""


def random_masks(architecture: Architecture, seed: int, share: float = 0.5) -> dict[str, NDArray[np.bool_]]:
    """Keep about a share of the kernels of every layer, at least one."""
    random = np.random.default_rng(seed)
    masks = {}
    for name in masked_layers(architecture):
        masks[name] = random.random(architecture.shapes[name][0]) < share
        masks[name][random.integers(len(masks[name]))] = True
    return masks


def generator_tensors(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make random mask generators for every masked layer, by the names of their tensors in the checkpoint."""
    random = torch.Generator().manual_seed(seed)
    inputs = {node.name: node.inputs[0] for node in architecture.nodes if node.kind == "convolution"}
    found = {}
    for name in masked_layers(architecture):
        ins, outs = architecture.shapes[inputs[name]][0], architecture.shapes[name][0]
        hidden = outs if outs < 128 else outs // 2
        prefix = f"mask_generators.{name}."
        found[prefix + "reduce.weight"] = torch.randn(hidden, ins, generator=random)
        found[prefix + "expand.weight"] = torch.randn(outs, hidden, generator=random)
        found[prefix + "expand.bias"] = torch.randn(outs, generator=random)
    return found


def masked_outputs(
    network: nn.Module,
    architecture: Architecture,
    factors: Mapping[str, torch.Tensor],
    given: torch.Tensor,
    generators: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Compute a network whose layers are multiplied by factors where their masks act.

    Parameters
    ----------
    network
        The network as it was defined.
    architecture
        Its description.
    factors : float[kernels] by layer
        A factor for every kernel.
    given
        The images.
    generators
        Tensors of mask generators, the results of which are multiplied in, too.

    """
    soft: dict[str, torch.Tensor] = {}
    handles = []

    def generate(layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            one, two, bias = (
                (generators or {})[f"mask_generators.{layer}.{role}"]
                for role in ("reduce.weight", "expand.weight", "expand.bias")
            )
            pooled = inputs[0].mean((2, 3))
            soft[layer] = torch.tanh(torch.relu(pooled @ one.T) @ two.T + bias).clamp(min=0)

        return hook

    def multiply(layer: str) -> Callable[..., torch.Tensor]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            factor = factors[layer][None] * (soft[layer] if generators else 1)
            return output * factor[:, :, None, None]

        return hook

    for layer, place in mask_places(architecture).items():
        if generators:
            handles.append(network.get_submodule(layer).register_forward_hook(generate(layer)))
        handles.append(network.get_submodule(place).register_forward_hook(multiply(layer)))
    with torch.no_grad():
        outputs: torch.Tensor = network(given)
    for handle in handles:
        handle.remove()
    return outputs

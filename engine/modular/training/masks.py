"""Mask generators: small networks beside convolutions, which say for each sample what kernels it needs.

The method is MwT, "Modularizing while Training" (https://arxiv.org/abs/2306.09376, section 3). Every convolution but
the first gets a generator, which sees the convolution's input x: m(x) = ReLU(tanh(W2 ReLU(W1 GAP(x)) + b2)), one number
from 0 to below 1 for each kernel. It multiplies BatchNorm(convolution(x)), or the convolution's output where no
BatchNorm follows. The masks stay soft, in training and afterwards; a sample uses the kernels whose mask is above 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.network.architecture import Architecture, hidden_width, mask_places, masked_layers
from dovetail.engine.modular.pytorch.tracing import trace


class MaskGenerator(nn.Module):
    """Says for each sample what kernels of one convolution it needs.

    Parameters
    ----------
    channels
        Channels of the convolution's input.
    kernels
        Kernels of the convolution.
    random
        Source of the weights, which are Kaiming-normal; None for torch's own. The bias starts at 1.

    """

    def __init__(self, channels: int, kernels: int, random: torch.Generator | None = None) -> None:
        super().__init__()
        hidden = hidden_width(kernels)
        make: Any = partial(nn.utils.skip_init, nn.Linear)  # draws no random numbers of torch's
        self.reduce = make(channels, hidden, bias=False)
        self.expand = make(hidden, kernels)
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, generator=random)
        nn.init.ones_(self.expand.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Give the masks, of shape (samples, kernels), for the convolution's input (samples, channels, ...)."""
        pooled = images.mean((2, 3))
        return torch.relu(torch.tanh(self.expand(torch.relu(self.reduce(pooled)))))


class ModularModel(nn.Module):
    """A network with mask generators. It is called like the network itself, and then holds the masks of that call.

    The network is watched by hooks, so its code runs as it is, and its tensors keep their names. Use it on one batch at
    a time: every call replaces the masks of the one before.

    Parameters
    ----------
    model
        The network; hooks are added to its convolutions.
    architecture
        What `trace` found.
    random
        Source of the generators' weights; None for torch's own.

    """

    def __init__(self, model: nn.Module, architecture: Architecture, random: torch.Generator | None = None) -> None:
        super().__init__()
        self.model, self.architecture = model, architecture
        self.mask_generators = nn.Module()
        self.masks: dict[str, Tensor] = {}
        """Masks of the last call by the paths of the convolutions, each of shape (samples, kernels)."""
        places = mask_places(architecture)
        for path in masked_layers(architecture):
            channels = architecture.shapes[architecture.node(path).inputs[0]][0]
            generator = MaskGenerator(channels, architecture.shapes[path][0], random)
            _add(self.mask_generators, path, generator)
            model.get_submodule(path).register_forward_pre_hook(partial(self._make_mask, path))
            model.get_submodule(places[path]).register_forward_hook(partial(self._apply_mask, path))

    @property
    def mask_paths(self) -> tuple[str, ...]:
        """Paths of the masked convolutions, in order."""
        return masked_layers(self.architecture)

    @property
    def layers(self) -> list[Tensor]:
        """The masks of the last call in the order of the layers, for the losses."""
        return list(self.masks.values())

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits, of shape (samples, classes), and keep the masks."""
        self.masks = {}
        logits: Tensor = self.model(images)
        return logits

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Give the tensors of the network under their own names, and those of generators under ``mask_generators.``."""
        return {**self.model.state_dict(), **self.mask_generators.state_dict(prefix="mask_generators.")}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors named as in `checkpoint_tensors`; all of them must be there."""
        load_named(self.model, {name: each for name, each in tensors.items() if not _is_generator(name)})
        self.load_generators(tensors)

    def load_generators(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over those of some tensors that belong to generators; all of these must be there."""
        own = {name: each for name, each in tensors.items() if _is_generator(name)}
        load_named(self.mask_generators, {name.removeprefix("mask_generators."): each for name, each in own.items()})

    def _make_mask(self, path: str, convolution: nn.Module, inputs: tuple[Any, ...]) -> None:
        generator = self.mask_generators.get_submodule(path)
        self.masks[path] = generator(inputs[0])

    def _apply_mask(self, path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * self.masks[path][:, :, None, None]


def modularize(model: nn.Module, example_input: Tensor, seed: int = 0) -> ModularModel:
    """Attach mask generators to every convolution but the first.

    Parameters
    ----------
    model
        Any network of layers that `trace` knows. It is changed: its convolutions get hooks.
    example_input
        A batch of images such as the network takes.
    seed
        Decides the generators' first weights.

    Returns
    -------
    ModularModel
        Calls the network, with masks.

    Raises
    ------
    ArchitectureError
        The network has a layer that is not supported, which the message names.
    RecipeError
        The network has fewer than two convolutions, so that there is nothing to mask.

    """
    architecture = trace(model, example_input)
    require_masked(architecture)
    return ModularModel(model, architecture, torch.Generator().manual_seed(seed))


def require_masked(architecture: Architecture) -> None:
    """Refuse a network without anything to mask; raises a RecipeError."""
    if not masked_layers(architecture):
        count = sum(node.kind == "convolution" for node in architecture.nodes)
        raise RecipeError(
            f"the network has {count} convolutions", "at least two: all but the first get masks", "take another network"
        )


def load_named(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors into a module.

    Raises
    ------
    RecipeError
        A tensor is missing, superfluous or of another shape.

    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise RecipeError(
            f"the tensors do not fit the network ({' '.join(str(error).split())[:300]})",
            "those of the same network",
            "make the network with the options it was trained with",
        ) from error


def _is_generator(name: str) -> bool:
    return name.startswith("mask_generators.")


def _add(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Add a module under a path with dots, so that its tensors are named by that path."""
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, leaf)

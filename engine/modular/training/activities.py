"""Watching the activations of a network as it is: for MODA, which has no mask generators, and for plain networks.

MODA (https://arxiv.org/abs/2411.01074, section 3) works on the activations themselves. A channel of a sample is as
active as its mean magnitude, and a sample uses a kernel where the channel is active at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dovetail.engine.modular.network.architecture import Architecture, mask_places, masked_layers
from dovetail.engine.modular.network.node import Node
from dovetail.engine.modular.pytorch.tracing import trace
from dovetail.engine.modular.training.losses import channel_activity
from dovetail.engine.modular.training.masks import load_named, require_masked

_FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Any], ...]]] = {
    "relu": (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
    "relu6": (functional.relu6, functional.hardtanh, functional.hardtanh_),
}
"""Functions that torch calls for activations that are exactly 0 for some inputs, by their kinds in an architecture."""

_ANY: Final = frozenset(function for functions in _FUNCTIONS.values() for function in functions)
_PASSED: Final = frozenset({"batch_norm", "add", "dropout", "identity"})
"""Kinds of nodes that lead from a convolution to its activation, channel by channel."""


class WatchedModel(nn.Module):
    """A network whose activations are kept. It is called like the network itself.

    Use it on one batch at a time: every call replaces the activities of the one before.

    Parameters
    ----------
    model
        The network; hooks are added to layers that no ReLU follows.
    architecture
        What `trace` found.

    """

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        self.model, self.architecture = model, architecture
        self.masks: dict[str, Tensor] = {}
        """Activities of the last call by the paths of the convolutions, each of shape (samples, kernels)."""
        self.layers: list[Tensor] = []
        """Activities of the last call after every ReLU, in order, for the losses."""
        activated = [name for node in architecture.nodes for name in _activations_of(node)]
        self._activation: dict[str, int] = {}
        self._unactivated: dict[str, Tensor] = {}
        for path, place in mask_places(architecture).items():
            after = _activation_after(architecture, place)
            if after is not None:
                self._activation[path] = activated.index(after)
            else:
                model.get_submodule(place).register_forward_hook(partial(self._keep, path))
        self._expected = len(activated)

    @property
    def mask_paths(self) -> tuple[str, ...]:
        """Paths of the convolutions whose activities are kept, in order."""
        return masked_layers(self.architecture)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits, of shape (samples, classes), and keep the activities."""
        self._unactivated = {}
        recorder = _Recorder()
        with recorder:
            logits: Tensor = self.model(images)
        self.layers = recorder.activities
        assert self._expected == len(self.layers), "the network calls other activations than when it was traced"
        self.masks = {
            path: self.layers[self._activation[path]] if path in self._activation else self._unactivated[path]
            for path in self.mask_paths
        }
        return logits

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Give the tensors of the network under their own names."""
        found: dict[str, Tensor] = self.model.state_dict()
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors named as in `checkpoint_tensors`; all of them must be there."""
        load_named(self.model, tensors)

    def _keep(self, path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._unactivated[path] = channel_activity(output)


class _Recorder(TorchFunctionMode):
    """Notes the activity of every ReLU, whether a module or a function calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.activities: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), settings: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function; note what a ReLU gives at once, because later layers may overwrite it."""
        result = function(*arguments, **(settings or {}))
        if function in _ANY:
            self.activities.append(channel_activity(result))
        return result


def watch(model: nn.Module, example_input: Tensor) -> WatchedModel:
    """Keep the activities of a network.

    A kernel whose output goes through BatchNorm and additions to a ReLU is active where that ReLU is; any other
    kernel, such as those of a linear bottleneck, where its own output is not 0, which is nearly always.

    Parameters
    ----------
    model
        Any network of layers that `trace` knows. It is changed: some layers get hooks.
    example_input
        A batch of images such as the network takes.

    Raises
    ------
    ArchitectureError
        The network has a layer that is not supported, which the message names.
    RecipeError
        The network has fewer than two convolutions, so that there is nothing to count.

    """
    architecture = trace(model, example_input)
    require_masked(architecture)
    return WatchedModel(model, architecture)


def _activations_of(node: Node) -> list[str]:
    """Name the ReLUs that a node calls; a mask generator calls two, which nobody asks for."""
    return ["", ""] if node.kind == "mask" else [node.name] if node.kind in _FUNCTIONS else []


def _activation_after(architecture: Architecture, place: str) -> str | None:
    """Find the ReLU that a layer's output goes to, channel by channel; None if there is none."""
    consumers: Mapping[str, Sequence[Node]] = architecture.consumers()
    while len(after := consumers[place]) == 1 and place != architecture.output:
        if after[0].kind in _FUNCTIONS:
            return after[0].name
        if after[0].kind not in _PASSED:
            return None
        place = after[0].name
    return None

"""Networks of torch become data that computes the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular import Architecture, Node, trace
from dovetail.engine.modular.pytorch.torch_network import build_network
from tests.engine.modular.networks import NETWORKS, Block, images, make


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_network_computes_the_same(name: str) -> None:
    """What is rebuilt of the data has the weights of the network by the same names, and computes the same bits."""
    network = make(name)
    rebuilt = build_network(trace(network, images()), network.state_dict())
    assert list(network.state_dict()) == sorted(rebuilt.state_dict(), key=list(network.state_dict()).index)
    given = images(2, seed=1)
    assert torch.equal(network(given), rebuilt(given))


def test_training_mode_is_left_as_it_was() -> None:
    """Tracing changes nothing about a network, not even which of its layers are in training."""
    network = make("vgg").train()
    network[4].eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, images())
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())


def test_network_without_memory_is_traced() -> None:
    """A network on the device meta gives the same data as one with weights: nothing is computed."""
    assert trace(make("resnet"), images()) == trace(make("resnet").to("meta"), images().to("meta"))


WINDOWS = [
    window
    for window in itertools.product((5, 6, 11), (2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True))
    if window[4] * (window[1] - 1) < window[0] + 2 * window[3]
]


def test_shapes_of_windows_are_those_of_torch() -> None:
    """Height and width of pools and convolutions are what torch gives, for every rounding."""
    for size, kernel, stride, padding, dilation, ceil_mode in WINDOWS:
        given = torch.zeros(1, 2, size, size + 1)
        both = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (padding, padding)}
        spread = {"dilation": (dilation, dilation)}
        wanted = functional.max_pool2d(given, kernel, stride, padding, dilation, ceil_mode).shape[1:]
        assert tuple(wanted) == _shape("max_pool", {**both, **spread, "ceil_mode": ceil_mode}, given)
        wanted = functional.avg_pool2d(given, kernel, stride, padding, ceil_mode).shape[1:]
        pool = {**both, "ceil_mode": ceil_mode, "count_include_pad": True}
        assert tuple(wanted) == _shape("avg_pool", pool, given)
        wanted = functional.conv2d(given, torch.zeros(3, 2, kernel, kernel), None, stride, padding, dilation).shape[1:]
        settings = {**both, **spread, "in_channels": 2, "out_channels": 3, "groups": 1}
        assert tuple(wanted) == _shape("convolution", settings, given, {"weight": "w"})


def _shape(kind: str, attributes: dict, given: torch.Tensor, tensors: dict | None = None) -> tuple[int, ...]:
    node = Node("node", kind, ("<input>",), attributes, tensors or {})
    return Architecture(tuple(given.shape[1:]), (node,), "node").shapes["node"]


class Forward(nn.Module):
    """A convolution, and a function of its output."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], object]) -> None:
        super().__init__()
        self.conv, self.other, self.function = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), function
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> object:
        return self.function(self, self.conv(x))


UNSUPPORTED = {
    "layer": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), "layer '1' is a GroupNorm"),
    "padding": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")), "padding_mode 'circular'"),
    "lopsided": (nn.Sequential(nn.Conv2d(3, 4, 4, padding="same")), "pads one side more"),
    "statistics": (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "no running mean"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), "ConvTranspose2d"),
    "twice": (Forward(lambda net, x: net.conv(x)), "'conv' is used more than once"),
    "function": (Forward(lambda net, x: torch.einsum("nchw->nc", x)), "einsum"),
    "softmax": (Forward(lambda net, x: functional.softmax(x, 1)), "softmax"),
    "method": (Forward(lambda net, x: x.transpose(1, 2)), "transpose"),
    "view": (Forward(lambda net, x: x.view(x.size(0), 9, -1)), "viewed as (batch, 9, -1)"),
    "scalar": (Forward(lambda net, x: x + 1), "takes 1"),
    "attribute": (Forward(lambda net, x: x * net.factor), "'factor' by itself"),
    "condition": (Forward(lambda net, x: x if x.sum() > 0 else -x), "cannot be traced"),
    "values": (Forward(lambda net, x: (x, x)), "does not return one value"),
    "dropout": (Forward(lambda net, x: functional.dropout(x)), "on in evaluation"),
    "concatenation": (Forward(lambda net, x: torch.cat([x, x], 2)), "along dimension 2"),
    "mean": (Forward(lambda net, x: x.mean(1)), "over dimensions 1"),
    "alpha": (Forward(lambda net, x: torch.add(x, x, alpha=2)), "alpha 2"),
    "index": (Forward(lambda net, x: x[:, :2]), "by an index"),
    "sizes": (Forward(lambda net, x: x + functional.max_pool2d(x, 2)), "gets [3, 12, 12] and [3, 6, 6]"),
}


@pytest.mark.parametrize(("network", "text"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_is_named(network: nn.Module, text: str) -> None:
    """A layer, function or use that cannot be cut is refused by name, in one line that says what is possible."""
    with pytest.raises(ArchitectureError) as caught:
        trace(network, images())
    assert text in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shared_weights_are_refused() -> None:
    """Two layers with one weight would have to be cut in two ways at once."""
    network = Forward(lambda net, x: net.other(x))
    network.conv = nn.Conv2d(3, 3, 1)
    network.other.weight = network.conv.weight
    with pytest.raises(ArchitectureError, match="'conv' and 'other' share their weight"):
        trace(network, images())


def test_hooks_are_refused() -> None:
    """A hook changes what a layer computes, and no graph shows it."""
    network = make("resnet")
    network.fc.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ArchitectureError, match="'fc' has hooks"):
        trace(network, images())


def test_other_outputs_are_noticed() -> None:
    """A network whose graph does not compute the same is refused, whatever hides the difference."""
    block = Block(3, 3, 1)
    block.relu.forward = lambda x: x + 1  # a layer of torch only by name
    with pytest.raises(ArchitectureError, match="gives something else than the model"):
        trace(block.eval(), images())

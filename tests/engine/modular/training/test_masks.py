"""Mask generators on any network: what is masked, by what, and how it is stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dovetail.engine.errors import ArchitectureError, RecipeError
from dovetail.engine.modular.network.architecture import masked_layers, with_generators
from dovetail.engine.modular.pytorch.networks import NETWORKS, NetworkOptions, make_network
from dovetail.engine.modular.pytorch.torch_network import build_network
from dovetail.engine.modular.training.activities import watch
from dovetail.engine.modular.training.masks import MaskGenerator, modularize
from tests.engine.modular.learning import images_of

OPTIONS = NetworkOptions(classes=3, channels=2, size=16, width=0.125)


class Small(nn.Module):
    """A convolution that is not masked, one with BatchNorm, one without, and functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.inner = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
        self.bare = nn.Conv2d(5, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits."""
        images = functional.relu(self.inner(functional.relu(self.first(images))))
        logits: Tensor = self.head(functional.relu(self.bare(images)).mean((2, 3)))
        return logits


def by_hand(generator: nn.Module, images: Tensor) -> Tensor:
    """Give ReLU(tanh(W2 ReLU(W1 GAP(x)) + b2)), written out."""
    state = generator.state_dict()
    pooled = images.mean(dim=(2, 3))
    hidden = (pooled @ state["reduce.weight"].T).clamp(min=0)
    return (hidden @ state["expand.weight"].T + state["expand.bias"]).tanh().clamp(min=0)


def test_masks_are_those_of_the_paper() -> None:
    """Each mask is the formula of its convolution's input, and multiplies BN(conv(x)), or conv(x) without BatchNorm."""
    torch.manual_seed(0)
    small, images = Small().eval(), images_of(4, 2, 9)
    modular = modularize(small, images, seed=1)
    logits = modular(images)
    generators = modular.mask_generators
    first = functional.relu(functional.conv2d(images, small.first.weight, small.first.bias))
    masks = {"inner.0": by_hand(generators.get_submodule("inner.0"), first)}
    convolved = functional.conv2d(first, small.inner[0].weight, small.inner[0].bias) / (1 + 1e-5) ** 0.5
    inner = functional.relu(convolved * masks["inner.0"][:, :, None, None])
    masks["bare"] = by_hand(generators.get_submodule("bare"), inner)
    bare = functional.conv2d(inner, small.bare.weight, small.bare.bias) * masks["bare"][:, :, None, None]
    expected = functional.relu(bare).mean((2, 3)) @ small.head.weight.T + small.head.bias
    assert list(masks) == list(modular.masks)
    for path, mask in masks.items():
        torch.testing.assert_close(modular.masks[path], mask)
    torch.testing.assert_close(logits, expected)


def test_a_generator_is_made_as_the_paper_says() -> None:
    """Hidden width, missing bias, bias 1 and Kaiming-normal weights are as in the paper."""
    generator = MaskGenerator(200, 256, torch.Generator().manual_seed(0))
    assert {"reduce.weight": (128, 200), "expand.weight": (256, 128), "expand.bias": (256,)} == {
        name: tuple(each.shape) for name, each in generator.state_dict().items()
    }
    assert [1.0] == generator.expand.bias.unique().tolist()
    for layer, inputs in ((generator.reduce, 200), (generator.expand, 128)):
        assert pytest.approx((2 / inputs) ** 0.5, rel=0.03) == layer.weight.std().item()
    assert (100, 3) == tuple(MaskGenerator(3, 100).reduce.weight.shape)
    masks = generator(torch.randn(50, 200, 4, 4, generator=torch.Generator().manual_seed(1)))
    assert 0 <= masks.min().item() <= masks.max().item() < 1


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_by_name(name: str) -> None:
    """Every network is masked in all convolutions but the first, and computes what its architecture says."""
    images = images_of(3, 2, 16)
    modular = modularize(make_network(name, OPTIONS, seed=3), images, seed=4)
    modular(images)  # in training, so that BatchNorm has seen something
    modular.eval()
    convolutions = [path for path, each in modular.model.named_modules() if isinstance(each, nn.Conv2d)]
    assert convolutions[1:] == list(masked_layers(modular.architecture)) == list(modular.masks)
    rebuilt = build_network(with_generators(modular.architecture), modular.checkpoint_tensors())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images), modular(images), rtol=1e-4, atol=1e-5)


def test_tensors_are_named_as_extraction_reads_them() -> None:
    """The network's tensors keep their names, and generators are named by their convolution's path, dots and all."""
    images = images_of(2, 2, 9)
    modular = modularize(Small(), images, seed=1)
    tensors = modular.checkpoint_tensors()
    assert set(Small().state_dict()) < set(tensors)
    assert {
        f"mask_generators.{path}.{part}"
        for path in ("inner.0", "bare")
        for part in ("reduce.weight", "expand.weight", "expand.bias")
    } == set(tensors) - set(Small().state_dict())
    other = modularize(Small(), images, seed=2)
    other.load_tensors(tensors)
    modular.eval(), other.eval()
    assert torch.equal(modular(images), other(images))
    with pytest.raises(RecipeError, match="the tensors do not fit the network"):
        other.load_tensors({**tensors, "head.bias": torch.zeros(9)})


def test_seeds_decide_the_weights_and_nothing_else_does() -> None:
    """The same seed gives the same weights, and the caller's random numbers go on as if nothing had happened."""
    images = images_of(2, 2, 16)
    torch.manual_seed(5)
    undisturbed = torch.rand(1)
    torch.manual_seed(5)
    made = [modularize(make_network("tiny", OPTIONS, seed), images, seed) for seed in (7, 7, 8)]
    assert torch.equal(undisturbed, torch.rand(1))
    same, other = (
        [torch.equal(a, b) for a, b in zip(made[0].parameters(), each.parameters(), strict=True)] for each in made[1:]
    )
    assert all(same)
    assert not all(other)


def test_unsupported_layers_are_named() -> None:
    """A layer that cannot be traced is an error that names it, and one convolution alone cannot be masked."""
    images = images_of(2, 2, 9)
    with pytest.raises(ArchitectureError, match="PixelShuffle"):
        modularize(nn.Sequential(nn.Conv2d(2, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 2, 3)), images)
    with pytest.raises(RecipeError, match="the network has 1 convolutions; expected at least two"):
        modularize(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), images)


def test_gradients_reach_the_generators() -> None:
    """Every generator and every convolution learns from the logits."""
    images = images_of(8, 2, 16)
    modular = modularize(make_network("tiny", OPTIONS), images)
    modular(images).square().sum().backward()
    for name, parameter in modular.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


class Stream(nn.Module):
    """A residual stream with in-place activations, which may overwrite what was seen before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Conv2d(inputs, 3, 3, 1, 1) for inputs in (2, 3, 3))
        self.relu, self.linear = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Give four logits."""
        stream = self.relu(self.first(images))
        inner = functional.relu_(self.left(stream))
        stream = torch.relu(self.right(inner) + stream)
        logits: Tensor = self.linear(stream).mean((2, 3))
        return logits


def test_activities_are_those_behind_each_relu() -> None:
    """A kernel is as active as the ReLU behind it, behind an addition too; a layer without ReLU as its own output."""
    torch.manual_seed(0)
    stream, images = Stream(), images_of(4, 2, 8)
    watched = watch(stream, images)
    watched(images)
    first = functional.relu(stream.first(images))
    left = functional.relu(stream.left(first))
    last = functional.relu(stream.right(left) + first)
    expected = {"left": left, "right": last, "linear": stream.linear(last)}
    assert list(expected) == list(watched.masks)
    for path, activation in expected.items():
        torch.testing.assert_close(watched.masks[path], activation.abs().mean((2, 3)))
    assert 3 == len(watched.layers)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("observe", [modularize, watch])
def test_masks_have_the_shape_of_their_layer(observe: Callable[..., nn.Module], name: str) -> None:
    """Whatever is counted has one column for each kernel of every masked layer."""
    images = images_of(3, 2, 16)
    observed = observe(make_network(name, OPTIONS), images)
    observed(images)
    for path, mask in observed.masks.items():
        assert (3, observed.model.get_submodule(path).out_channels) == tuple(mask.shape)

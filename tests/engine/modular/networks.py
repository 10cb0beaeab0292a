"""Small networks of every supported build, written as people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

SIDE = 12
"""Height and width of the images."""


class Plain(nn.Module):
    """Convolutions without normalisation, functional activations, a view and two linear layers, as SimCNN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding="valid")
        self.conv3 = nn.Conv2d(8, 7, 3, padding=2, dilation=2)
        self.fc1, self.fc2 = nn.Linear(7 * 4, 9), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2, padding=1)
        x = functional.leaky_relu(self.conv2(x), 0.1)
        x = functional.avg_pool2d(torch.tanh(self.conv3(x)), 2, ceil_mode=True)
        x = functional.dropout(x, 0.2, training=self.training)
        x = x.view(x.size(0), -1)
        return self.fc2(functional.gelu(self.fc1(x)))


def vgg() -> nn.Module:
    """Convolution, normalisation, activation, pool, in a sequence, with normalised linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        *(nn.Conv2d(6, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(9, 8, 3, padding="same"), nn.BatchNorm2d(8, affine=False), nn.SiLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Flatten(), nn.Dropout(), nn.Linear(8 * 9, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4)),
    )


class Block(nn.Module):
    """A residual block whose activation is used twice, with or without a convolution in its shortcut."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.relu, self.downsample = nn.ReLU(), None
        if stride != 1 or ins != outs:
            self.downsample = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    """Residual blocks, with and without a convolution in the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Inverted(nn.Module):
    """An inverted residual block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        wide = 2 * ins
        self.expand = nn.Sequential(nn.Conv2d(ins, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 5, 1), nn.ReLU(), nn.Conv2d(5, wide, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outs, 1, bias=False), nn.BatchNorm2d(outs))
        self.shortcut = stride == 1 and ins == outs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.depth(self.expand(x))
        out = self.project(deep * self.squeeze(deep))
        return x + out if self.shortcut else out


class MobileNet(nn.Module):
    """Inverted residual blocks with squeeze and excite, and a head of a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(6, 6, 1), Inverted(6, 9, 2), Inverted(9, 9, 1))
        self.classifier = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean([2, 3]))


class Inception(nn.Module):
    """Branches that are concatenated, with an unequal window among them and convolutions in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.bn_one = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)
        self.three = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ELU(), nn.Conv2d(5, 6, (1, 3), padding=(0, 1)))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(6, 3, 1))
        self.groups = nn.Conv2d(13, 26, 3, groups=13, padding=1)
        self.grouped, self.bn_grouped = nn.Conv2d(26, 12, 3, groups=2), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        x = torch.cat([self.bn_one(self.one(x)), self.three(x), self.pool(x)], 1)
        x = self.bn_grouped(self.grouped(functional.softplus(self.groups(functional.relu(x)))))
        return self.fc(functional.adaptive_max_pool2d(functional.mish(x), 2).flatten(1))


class DenseNet(nn.Module):
    """Every layer normalises, before its convolution, the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * index) for index in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * index, 4, 3, padding=1, bias=False) for index in range(3))
        self.norm, self.fc = nn.BatchNorm2d(18), nn.Linear(18, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(functional.relu(norm(torch.cat(features, 1)))))
        x = functional.relu(self.norm(torch.cat(features, 1)))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1))


class Convolutional(nn.Module):
    """A network without linear layers: its last convolution gives the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.Hardsigmoid())
        self.classes = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(x)).mean((-1, -2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "vgg": vgg,
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "inception": Inception,
    "densenet": DenseNet,
    "convolutional": Convolutional,
}
"""All of them; each gives four logits."""


def make(name: str, seed: int = 0) -> nn.Module:
    """Make a network with random weights and random statistics of its normalisations, in evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = NETWORKS[name]()
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias)
    return network.eval()


def images(count: int = 3, seed: int = 0) -> torch.Tensor:
    """Make random images."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))

"""Figures of networks and modules, from training to composed modules, and each measure against its definition."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dovetail.engine.cli.report.training import print_figures
from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.data.images import DataSet, make_data_set
from dovetail.engine.modular.evaluation.figures import Evaluation, area_under_curve
from dovetail.engine.modular.evaluation.judging import Judging, choices, class_range, judge
from dovetail.engine.modular.evaluation.metrics import kernel_retention
from dovetail.engine.modular.evaluation.tuning import calibrate
from dovetail.engine.modular.network.costs import costs_of
from dovetail.engine.modular.network.parent import Parent
from dovetail.engine.modular.pytorch.tracing import trace
from dovetail.engine.modular.training.predictions import normalisation_of
from tests.engine.command import dovetail
from tests.engine.modular.data import test_images

CPU = torch.device("cpu")


def evaluation(network: Parent, shapes: tuple[Path, DataSet], masks: str | None = None) -> Evaluation:
    return Evaluation(network, shapes[1], normalisation_of(network.inputs, shapes[1]), masks=masks)


def test_the_whole_way(network: Parent, shapes: tuple[Path, DataSet]) -> None:
    """A network learns and becomes modular; modules are smaller, and composed ones are nearly as good as the whole."""
    found = judge(network, shapes[1], Judging(compose=(2, 5, 10)), CPU)
    model, modules, composed = found["model"], found["modules"], found["composed"]
    assert model["accuracy"] > 0.8
    assert model["retention"] < 0.85
    assert model["coupling"] < 0.85
    assert len(modules) == 10
    assert all(row["parameters"] < model["parameters"] for row in modules)
    assert all(row["multiplications"] < model["multiplications"] for row in modules)
    assert sum(row["area"] for row in modules) / 10 > 0.85
    assert [2, 5, 10] == [row["classes"] for row in composed]
    for row in composed:
        assert row["accuracy"] > row["model_accuracy"] - 0.1
        assert row["latency_s"] > 0


def test_figures_are_those_of_the_definitions(network: Parent, shapes: tuple[Path, DataSet]) -> None:
    """Recall, specificity and kernels are what counting one by one gives."""
    made, labels = evaluation(network, shapes), shapes[1].test.labels
    figures, module = made.of_class(3), made.maker.make([3], all_logits=True)
    with torch.no_grad():
        logits = module.network(made.normalise(torch.from_numpy(shapes[1].test.pixels)))
    guesses = logits.argmax(1).numpy()
    assert sum(guesses[labels == 3] == 3) / 20 == figures.recall
    assert sum(guesses[labels != 3] != 3) / 180 == figures.specificity
    assert kernel_retention([made.kernels[3]]) == figures.kernels
    assert pytest.approx((figures.recall + figures.specificity) / 2) == figures.balanced


@pytest.mark.parametrize("masks", ["folded", "generators", "hard"])
def test_all_modules_together_are_nearly_the_network(network: Parent, shapes: tuple[Path, DataSet], masks: str) -> None:
    """Modules of all classes keep what any of them needs, in the order that is asked for."""
    made = evaluation(network, shapes, masks)
    module, right = made.composed(list(range(10)))
    order = [4, 2, 0, 1, 3, 5, 6, 7, 8, 9]
    other, same = made.composed(order)
    assert right == same
    images = made.normalise(torch.from_numpy(shapes[1].test.pixels[:20]))
    with torch.no_grad():
        torch.testing.assert_close(module.network(images)[:, order], other.network(images))
    if masks == "generators":
        assert right > made.accuracy() - 0.05


def test_masks_that_a_network_does_not_have(network: Parent, shapes: tuple[Path, DataSet]) -> None:
    """Unknown ways with masks are errors, and so are data of other classes or shapes."""
    with pytest.raises(RecipeError, match="masks are 'soft'; expected one of generators, folded, hard"):
        evaluation(network, shapes, "soft").of_class(0)
    images = test_images.images(40)
    with pytest.raises(RecipeError, match="the data have the classes a, b; expected those of"):
        Evaluation(network, make_data_set("x", ("a", "b"), images, images), normalisation_of(None, shapes[1]))


def test_commands(network: Parent, shapes: tuple[Path, DataSet], capsys: pytest.CaptureFixture[str]) -> None:
    """The commands say for people and programs what the functions give."""
    folder = network.folder
    printed = dovetail("modules", "evaluate", folder, "--compose", "2", "--no-latency", "--masks", "folded", "--json")
    expected = judge(network, shapes[1], Judging(None, "folded", (2,), latency=False), CPU)
    assert (0, "", expected) == (printed.code, printed.err, json.loads(printed.out))
    print_figures(expected)
    shown = capsys.readouterr().out
    for text in ("modules keep ", "disc ", "2 classes ", "coupling 0."):
        assert text in shown
    counted = dovetail("modules", "count", folder, "--json")
    assert [50] * 10 == [row["samples"] for row in json.loads(counted.out)["classes"]]
    assert "kept are kernels that at least 90% of a class's images use" in dovetail("modules", "count", folder).out
    again = dovetail(
        *("modules", "train", shapes[0], folder, "--network", "tiny", "--width", 0.75, "--epochs", 12),
        *("--batch", 50, "--crop", 0, "--device", "cpu"),
    )
    assert 0 == again.code
    assert again.err.endswith("/net is there already, from the same training; nothing was done\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["train", "nothing", "OUT"],
            3,
            "error: data 'nothing' is not there; expected shapes, fashion-mnist",
        ),
        (
            ["train", "shapes", "OUT", "--weight", "coupling"],
            2,
            "error: --weight coupling; expected a term and a",
        ),
        (["train", "shapes", "OUT", "--method", "mtw"], 2, "error: method is 'mtw'; expected one of mwt, moda"),
        (["train", "shapes", "OUT", "--network", "vgg11"], 2, "error: network 'vgg11' is not known"),
        (["evaluate", "OUT"], 3, "error: there is no modular network at OUT"),
        (["evaluate", "NET", "--compose", "2,x"], 2, "error: --compose is '2,x'; expected numbers of classes"),
        (["evaluate", "NET", "--threshold", "2"], 2, "error: the threshold is 2.0; expected a number above 0"),
        (["count", "NET", "--device", "tpu9"], 2, "error: device 'tpu9' cannot be used"),
    ],
)
def test_errors_of_commands(
    network: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, text: str
) -> None:
    """Every error is one line with the exit code of its kind, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    said = dovetail("modules", *(str(network.folder) if each == "NET" else each for each in arguments))
    assert (code, "") == (said.code, said.out)
    assert said.err.startswith(text)
    assert 1 == said.err.count("\n")
    assert [] == list(tmp_path.iterdir())


def test_fine_tuning_helps_modules_that_lost_much(network: Parent, shapes: tuple[Path, DataSet]) -> None:
    """Composed modules that are trained on are better than before, and the figures before are shown too."""
    judging = Judging(threshold=1.0, masks="folded", compose=(5,), tune=2, latency=False)
    (row,) = judge(network, shapes[1], judging, CPU)["composed"]
    assert row["tuned_accuracy"] > row["accuracy"]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
@settings(max_examples=50)
def test_area_under_the_curve(drawn: list[tuple[int, bool]]) -> None:
    """The area is the chance that a positive scores above a negative, pair by pair; equal scores count half."""
    scores, positive = np.array([score for score, _ in drawn]), np.array([each for _, each in drawn])
    pairs = [np.sign(a - b) for a, b in itertools.product(scores[positive], scores[~positive])]
    if pairs:
        assert pytest.approx(np.mean([(sign + 1) / 2 for sign in pairs])) == area_under_curve(scores, positive)


def test_costs_as_torch_counts_them() -> None:
    """Parameters are those of torch, and multiplications those of unfolded images, groups and strides included."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4, bias=False)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)),
    )
    costs = costs_of(trace(net, torch.zeros(1, 3, 12, 12)))
    assert sum(each.numel() for each in net.parameters()) == costs.parameters
    columns = functional.unfold(torch.zeros(1, 3, 12, 12), 3, padding=1, stride=2)
    expected = 8 * math.prod(columns.shape)
    columns = functional.unfold(torch.zeros(1, 8, 6, 6), 3)
    expected += 8 * math.prod(columns.shape) // 4 + 32 * 5
    assert expected == costs.multiplications


def test_calibration_finds_what_was_hidden() -> None:
    """Branches whose logits were scaled and shifted are made comparable again, as far as images can tell."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 4))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(4, p=each) for each in chances])
    hidden = [(2.0, 0.0), (0.5, 3.0)]
    branches = [(logits[:, :2] - shift) / scale for scale, shift in [hidden[0]]]
    branches += [(logits[:, 2:] - shift) / scale for scale, shift in [hidden[1]]]
    found = calibrate(branches, labels)
    assert pytest.approx([0.5, 2.0], rel=0.1) == [each.temperature for each in found]
    assert pytest.approx([0.0, 3.0], abs=0.2) == [each.bias for each in found]
    with pytest.raises(RecipeError, match="no image is of class 3; expected images of every class"):
        calibrate(branches, labels % 3)


def test_choices_of_classes() -> None:
    """Neighbours are composed, each in one choice, and no more choices than figures are averaged over."""
    assert [[0, 1], [2, 3], [4, 5]] == choices(10, 2)
    assert [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] == choices(10, 5)
    assert [[*range(10)]] == choices(10, 10)
    assert (2, 3, 5) == class_range("2, 3,5")

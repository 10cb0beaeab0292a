"""The whole way: networks are trained, modules extracted and composed, and the result is tried on images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.evaluation.figures import Evaluation
from dovetail.engine.modular.evaluation.judging_modules import judge_module
from dovetail.engine.modular.extraction.compose import compose_modules
from dovetail.engine.modular.extraction.document import read_module
from dovetail.engine.modular.extraction.extract import extract_module
from dovetail.engine.modular.extraction.joining import Calibration
from dovetail.engine.modular.network.parent import Parent
from dovetail.engine.modular.training.options import TrainingOptions
from dovetail.engine.modular.training.predictions import normalisation_of
from dovetail.engine.modular.training.request import Request
from dovetail.engine.modular.training.train import train
from tests.engine.command import dovetail

CPU = torch.device("cpu")
CLASSES = ("columns", "disc", "rows")


@pytest.mark.parametrize("masks", ["generators", "folded", "hard"])
def test_extracted_modules_are_those_of_the_figures(
    network: Parent, shapes: tuple[Path, DataSet], tmp_path: Path, masks: str
) -> None:
    """A module on the disk is as good, and as large, as the one in memory that figures of a network are made of."""
    extract_module(network.folder, tmp_path / "module", CLASSES, masks=masks)
    found = judge_module(read_module(tmp_path / "module"), shapes[1], CPU, latency=False)
    numbers = [shapes[1].classes.index(name) for name in CLASSES]
    evaluation = Evaluation(network, shapes[1], normalisation_of(network.inputs, shapes[1]), masks=masks)
    made, right = evaluation.composed(numbers)
    assert right == found["accuracy"]
    assert sum(each.numel() for each in made.network.parameters()) == found["parameters"]
    assert [*CLASSES] == [row["class"] for row in found["classes"]]
    assert pytest.approx(found["accuracy"]) == np.mean([row["right"] for row in found["classes"]])


@pytest.fixture(scope="module")
def composed(network: Parent, shapes: tuple[Path, DataSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose modules of two networks, of which one gives much smaller logits."""
    home = tmp_path_factory.mktemp("composed")
    options = TrainingOptions("moda", epochs=5, batch=50, crop=0, seed=1)
    train(Request(str(shapes[0]), "tiny", 0.5, options, "cpu"), home / "other")
    extract_module(network.folder, home / "first", ("disc", "rows"))
    extract_module(home / "other", home / "second", ("columns", "frame"))
    bad = [Calibration(3.0), Calibration(0.2, 1.0)]
    compose_modules([home / "first", home / "second"], home / "both", calibrations=bad)
    return home


def test_calibration_makes_branches_comparable(composed: Path, shapes: tuple[Path, DataSet]) -> None:
    """Composed anew as --calibrate says, a module is as right as was said, and there is little left to gain."""
    both = judge_module(read_module(composed / "both"), shapes[1], CPU, latency=False, fit=True)
    assert both["calibrated_accuracy"] > both["accuracy"]
    chosen = [Calibration(each["temperature"], each["bias"]) for each in both["calibrations"]]
    compose_modules([composed / "first", composed / "second"], composed / "again", calibrations=chosen)
    again = judge_module(read_module(composed / "again"), shapes[1], CPU, latency=False, fit=True)
    assert both["calibrated_accuracy"] == again["accuracy"]
    assert pytest.approx(again["accuracy"], abs=0.05) == again["calibrated_accuracy"]


def test_the_command_for_modules(composed: Path, shapes: tuple[Path, DataSet]) -> None:
    """The command shows figures of modules, with calibrations on request, and its errors are clear."""
    arguments = ("modules", "evaluate", composed / "both", "--data", shapes[0], "--no-latency", "--calibrate")
    shown, printed = dovetail(*arguments), dovetail(*arguments, "--json")
    assert (0, "", 0) == (shown.code, shown.err, printed.code)
    expected = judge_module(read_module(composed / "both"), shapes[1], CPU, latency=False, fit=True)
    assert expected == json.loads(printed.out)
    for text in ("module: ", "columns ", "other ", "calibrated so, ", " --temperature "):
        assert text in shown.out
    said = dovetail("modules", "evaluate", composed / "both")
    assert 2 == said.code
    assert said.err.endswith(
        "is a module, which does not say what to try it on; expected a data set; name one by --data\n"
    )
    said = dovetail("modules", "evaluate", composed / "first", "--data", shapes[0], "--calibrate", "--no-latency")
    assert 2 == said.code
    assert "is of one network; expected a module composed of modules of several; leave --calibrate out" in said.err


def test_images_are_normalised_as_in_training(composed: Path, shapes: tuple[Path, DataSet]) -> None:
    """A module is tried on images as its network was trained on them, whatever the training images of the data are."""
    module, data = read_module(composed / "both"), shapes[1]
    dark = dataclasses.replace(data, train=dataclasses.replace(data.train, pixels=data.train.pixels // 4))
    expected = judge_module(module, data, CPU, latency=False)
    assert expected == judge_module(module, dark, CPU, latency=False)


def test_data_without_a_class_of_the_module(composed: Path, shapes: tuple[Path, DataSet]) -> None:
    """Data that lack a class, or have other images, are refused by name."""
    module = read_module(composed / "first")
    other = dataclasses.replace(shapes[1], classes=tuple(name.upper() for name in shapes[1].classes))
    with pytest.raises(RecipeError, match=r"the data have no class 'disc'; expected all classes of .*: disc, rows"):
        judge_module(module, other, CPU)
    small = dataclasses.replace(shapes[1].train, pixels=shapes[1].train.pixels[:, :, 1:, 1:])
    with pytest.raises(RecipeError, match=r"images have the shape \(1, 15, 15\); expected \(1, 16, 16\)"):
        judge_module(module, dataclasses.replace(shapes[1], train=small), CPU)

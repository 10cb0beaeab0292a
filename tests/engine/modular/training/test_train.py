"""Training as a user asks for it: a folder that says what it is, made once, and made again only on request."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail.engine.errors import OutputError, RecipeError
from dovetail.engine.events import Event, Notice
from dovetail.engine.modular.evaluation.figures import load_observed
from dovetail.engine.modular.evaluation.recount import recount
from dovetail.engine.modular.network.counts import read_counts
from dovetail.engine.modular.network.parent import read_parent
from dovetail.engine.modular.training import loop
from dovetail.engine.modular.training import request as requests
from dovetail.engine.modular.training import train as trainings
from dovetail.engine.modular.training.options import METHODS, TrainingOptions
from dovetail.engine.modular.training.predictions import count_masks, normalisation_of
from dovetail.engine.modular.training.request import Request
from dovetail.engine.modular.training.train import train
from dovetail.io.state_dict import load_tensors
from tests.engine.modular.learning import few_shapes

OPTIONS = TrainingOptions(epochs=1, batch=50)
REQUEST = Request("shapes", "tiny", 0.25, OPTIONS, "cpu")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on fewer images than the data set has."""
    monkeypatch.setattr(trainings, "open_data", lambda name: few_shapes())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_network_can_be_read(tmp_path: Path, method: str) -> None:
    """The folder has weights, description and counts that fit one another, and nothing of the work."""
    request = dataclasses.replace(REQUEST, options=dataclasses.replace(OPTIONS, method=method))
    about = train(request, tmp_path / "net")
    names = {"model.safetensors", "modular.json", "counts.safetensors", "training_times.json"}
    assert names == set(files(tmp_path / "net"))
    assert ["net"] == [path.name for path in tmp_path.iterdir()]
    parent = read_parent(tmp_path / "net")
    data = few_shapes()
    assert (data.classes, METHODS[method].generators) == (parent.classes, parent.generators)
    assert {name: about[name] for name in about if name not in ("seconds", "already")} == parent.about["training"]
    observed = load_observed(parent, load_tensors(parent.checkpoint))
    counter = count_masks(observed, data.train, 10, normalisation_of(parent.inputs, data), torch.device("cpu"))
    counts = read_counts(parent)
    assert counter.samples.tolist() == counts.samples.tolist()
    assert set(counts.soft) == (set(counts.counts) if method in ("mwt", "nemo") else set())
    for path, expected in counter.counts.items():
        different = int(abs(expected - counts.counts[path]).sum())
        assert different <= 2, path  # the rebuilt network may round another way, which a mask near 0 can show


def test_the_same_training_is_done_once(tmp_path: Path) -> None:
    """The same command again does nothing; another one is refused unless it may overwrite."""
    first = train(REQUEST, tmp_path / "net")
    before, told = files(tmp_path / "net"), list[Event]()
    again = train(REQUEST, tmp_path / "net", listen=told.append)
    assert {**first, "already": True} == again
    assert before == files(tmp_path / "net")
    assert isinstance(told[0], Notice)
    other = dataclasses.replace(REQUEST, options=dataclasses.replace(OPTIONS, seed=1))
    with pytest.raises(OutputError, match="is not empty; expected a new or empty folder"):
        train(other, tmp_path / "net")
    train(other, tmp_path / "net", overwrite=True)
    assert before["model.safetensors"] != files(tmp_path / "net")["model.safetensors"]


def test_a_killed_training_is_continued_or_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill the same command gives the same files; another one says so, until the rest is thrown away."""
    train(REQUEST, tmp_path / "whole")

    def killed(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "accuracy", killed)
        with pytest.raises(KeyboardInterrupt):
            train(REQUEST, tmp_path / "net", save_seconds=0)
    other = dataclasses.replace(REQUEST, width=0.5)
    with pytest.raises(OutputError, match=r"has width 0\.25; expected 0\.5, as this command asks for"):
        train(other, tmp_path / "net")
    train(REQUEST, tmp_path / "net")
    for name in ("model.safetensors", "counts.safetensors", "modular.json"):
        assert files(tmp_path / "whole")[name] == files(tmp_path / "net")[name]
    with monkeypatch.context() as patched:
        patched.setattr(trainings, "count_masks", killed)
        with pytest.raises(KeyboardInterrupt):
            train(other, tmp_path / "other")
    train(dataclasses.replace(other, options=dataclasses.replace(OPTIONS, seed=3)), tmp_path / "other", restart=True)
    assert {"whole", "net", "other"} == {path.name for path in tmp_path.iterdir()}


def test_networks_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function in the current folder makes the network; what it gives must fit, and errors say what to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_networks.py").write_text(
        "from torch import nn\n"
        "def small(options, classes=None):\n"
        "    layers = [nn.Conv2d(options.channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes or 10))\n"
        "def wrong(options):\n"
        "    return small(options, 3)\n"
        "text = str\n"
    )
    train(dataclasses.replace(REQUEST, network="my_own_networks:small"), tmp_path / "net")
    assert ("2",) == tuple(read_counts(read_parent(tmp_path / "net")).counts)
    for network, text in (
        ("my_own_networks:wrong", r"gives \[3\] values for an image; expected one for each of 10 classes"),
        ("my_own_networks:text", "is a str; expected a torch.nn.Module"),
        ("my_own_networks:missing", "has no function 'missing'; expected a function that takes a NetworkOptions"),
        ("nowhere_at_all:small", "No module named 'nowhere_at_all'"),
        ("vgg11", "network 'vgg11' is not known; expected one of tiny, simcnn, vgg, resnet"),
    ):
        with pytest.raises(RecipeError, match=text):
            train(dataclasses.replace(REQUEST, network=network), tmp_path / "other")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does not exist is an error that names it."""
    with pytest.raises(RecipeError, match="device 'tpu9' cannot be used"):
        requests.choose_device("tpu9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch.device("cpu") == requests.choose_device("auto")


def test_counting_anew(tmp_path: Path) -> None:
    """Counts of other images replace those beside the network, and another threshold is stored."""
    train(REQUEST, tmp_path / "net")
    parent, data = read_parent(tmp_path / "net"), few_shapes()
    other = dataclasses.replace(data, train=data.validation)
    recount(parent, other, 0.5, "cpu")
    again = read_parent(tmp_path / "net")
    assert (0.5, parent.about) == (again.threshold, again.about)
    assert [5] * 10 == read_counts(again).samples.tolist()
    with pytest.raises(RecipeError, match="the data have the classes a, b"):
        recount(parent, dataclasses.replace(data, classes=("a", "b")), None, "cpu")

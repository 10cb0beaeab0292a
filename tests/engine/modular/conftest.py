"""Small networks are computed on one thread: more of them would wait for each other longer than they compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.data.opening import open_data
from dovetail.engine.modular.data.shapes import make_shapes
from dovetail.engine.modular.network.parent import Parent, read_parent
from dovetail.engine.modular.training.options import TrainingOptions
from dovetail.engine.modular.training.request import Request
from dovetail.engine.modular.training.train import train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSet]:
    """Write a part of the data set ``shapes`` into a file; give its path, and what is in it."""
    path, made = tmp_path_factory.mktemp("data") / "shapes.npz", make_shapes(500, 100, 200)
    parts = {"train": made.train, "val": made.validation, "test": made.test}
    arrays = {f"{name}_images": each.pixels for name, each in parts.items()}
    arrays |= {f"{name}_labels": each.labels for name, each in parts.items()}
    np.savez(path, classes=np.array(made.classes), **arrays)
    return path, open_data(str(path))


@pytest.fixture(scope="session")
def network(shapes: tuple[Path, DataSet]) -> Parent:
    """Train a network for seconds, until it has learnt something and has become modular."""
    options = TrainingOptions(epochs=12, batch=50, crop=0)
    train(Request(str(shapes[0]), "tiny", 0.75, options, "cpu"), shapes[0].parent / "net")
    return read_parent(shapes[0].parent / "net")

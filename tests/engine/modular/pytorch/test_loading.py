"""Modules are plain networks of torch, and can leave without anything of ours."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

from dovetail.engine.errors import ArchitectureError
from dovetail.engine.modular import Architecture, Node, extract_module, load_module
from dovetail.engine.modular.pytorch.torch_network import build_network
from dovetail.io.errors import MissingFileError
from tests.engine.modular.networks import images, make
from tests.engine.modular.parents import make_parent, weights_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent with residual blocks, and a module of it."""
    folder = tmp_path_factory.mktemp("loading")
    make_parent(folder / "parent", "resnet")
    extract_module(folder / "parent", folder / "module", ["cat", "ant"])
    return folder


def test_parents_are_loaded_with_their_generators(folders: Path) -> None:
    """A whole modular network has its weights and generators by the names that they have in its folder."""
    parent = load_module(folders / "parent")
    assert weights_of(folders / "parent").keys() == parent.state_dict().keys()
    assert not torch.equal(make("resnet")(images()), parent(images()))


def test_modules_are_plain(folders: Path) -> None:
    """A module's state has just the tensors of its folder, all of its layers are torch's, and pickling keeps it."""
    module = load_module(folders / "module")
    stored = weights_of(folders / "module")
    assert stored.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in module.state_dict().items())
    kinds = {type(layer).__module__.split(".")[0] for name, layer in module.named_modules() if name}
    assert {"torch"} == kinds
    assert torch.equal(module(images()), pickle.loads(pickle.dumps(module))(images()))


def test_modules_can_be_trained(folders: Path) -> None:
    """Gradients reach every weight, and a step changes the weights in memory alone."""
    before = (folders / "module" / "model.safetensors").read_bytes()
    module = load_module(folders / "module").train()
    module(images()).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad
    assert before == (folders / "module" / "model.safetensors").read_bytes()


def test_modules_are_exported(folders: Path) -> None:
    """torch.export takes a module for batches of any size, and what it gives computes the same."""
    module = load_module(folders / "module")
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (images(),), dynamic_shapes=({0: batch},))
    assert torch.allclose(module(images(5, 1)), exported.module()(images(5, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="ONNX is not installed")
def test_modules_are_exported_to_onnx(folders: Path) -> None:
    """torch.onnx takes a module."""
    module = load_module(folders / "module")
    assert torch.onnx.export(module, (images(),), dynamo=True) is not None


def test_other_folders_are_refused(tmp_path: Path) -> None:
    """A folder that is neither a module nor a modular network is named."""
    with pytest.raises(MissingFileError, match=r"has neither modules\.json nor modular\.json"):
        load_module(tmp_path)


@pytest.mark.parametrize("name", ["a..b", "forward", 'x"]; import os; #', "_modules", "a.state_dict"])
def test_names_that_no_module_can_have_are_refused(name: str) -> None:
    """Names from a file become names of attributes, and parts of code: only harmless ones are taken."""
    tensors = {role: f"{role}" for role in ("weight", "bias")}
    node = Node(name, "linear", ("<input>",), {"in_features": 1, "out_features": 1}, tensors)
    with pytest.raises(ArchitectureError, match="has a name that no module of torch can have"):
        build_network(Architecture((1,), (node,), name), {"weight": torch.ones(1, 1), "bias": torch.ones(1)})


def test_normalisation_need_not_count_batches() -> None:
    """A BatchNorm without a counter of batches is loaded as it is, beside one that has it."""
    settings, roles = {"channels": 3, "eps": 1e-5}, ("running_mean", "running_var")
    nodes = (
        Node("a", "batch_norm", ("<input>",), settings, {role: f"a.{role}" for role in roles}),
        Node("b", "batch_norm", ("a",), settings, {role: f"b.{role}" for role in (*roles, "num_batches_tracked")}),
    )
    tensors = {f"{name}.{role}": torch.rand(3) + 0.5 for name in "ab" for role in roles}
    tensors["b.num_batches_tracked"] = torch.tensor(7)
    network = build_network(Architecture((3, 2, 2), nodes, "b"), tensors)
    assert tensors.keys() == network.state_dict().keys()
    given = images()
    for name in "ab":
        mean, variance = (tensors[f"{name}.{role}"][:, None, None] for role in roles)
        given = (given - mean) / (variance + 1e-5).sqrt()
    assert torch.allclose(given, network(images()), rtol=1e-4, atol=1e-5)


def test_tensors_of_another_network_are_refused() -> None:
    """A tensor that is missing or has another shape is named."""
    node = Node("fc", "linear", ("<input>",), {"in_features": 2, "out_features": 1}, {"weight": "w"})
    with pytest.raises(ArchitectureError, match=r"tensor 'w' is \[1, 1\]; expected \[1, 2\]"):
        build_network(Architecture((2,), (node,), "fc"), {"w": torch.ones(1, 1)})
    with pytest.raises(ArchitectureError, match="tensor 'w' is missing"):
        build_network(Architecture((2,), (node,), "fc"), {})

"""Composed modules: the union of one parent's is the module of the union, and other parents' become branches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.engine import RunOptions, verify
from dovetail.engine.errors import DovetailError, RecipeError
from dovetail.engine.modular import Calibration, compose_modules, extract_module, load_module
from dovetail.engine.modular.extraction.document import read_module
from dovetail.engine.modular.network.inputs import InputScale
from dovetail.io.errors import CheckpointError
from tests.engine.modular.networks import images
from tests.engine.modular.parents import CLASSES, make_parent

FILES = ("modules.json", "model.safetensors")


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parents of other classes, and one more of the classes of the first."""
    folder = tmp_path_factory.mktemp("parents")
    make_parent(folder / "first", "resnet", 1)
    make_parent(folder / "second", "mobilenet", 2, classes=("elk", "fox", "gnu", "hen"))
    make_parent(folder / "third", "vgg", 3)
    return folder


@given(
    sets=st.lists(st.lists(st.sampled_from(CLASSES), min_size=1, unique=True), min_size=1, max_size=3),
    masks=st.sampled_from(["generators", "folded", "hard"]),
    data=st.data(),
)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_union_is_the_module_of_the_union(
    parents: Path, tmp_path_factory: pytest.TempPathFactory, sets: list[list[str]], masks: str, data: st.DataObject
) -> None:
    """Whatever modules of one parent are composed, in any order: bit for bit what extracting all classes gives."""
    folder, quick = tmp_path_factory.mktemp("union"), RunOptions(workers=1)
    order = data.draw(st.permutations(sorted({name for each in sets for name in each})))
    for index, chosen in enumerate(sets):
        extract_module(parents / "first", folder / str(index), chosen, masks=masks, run=quick)
    compose_modules([folder / str(index) for index in range(len(sets))], folder / "composed", order, run=quick)
    extract_module(parents / "first", folder / "extracted", order, masks=masks, run=quick)
    for file in FILES:
        assert (folder / "extracted" / file).read_bytes() == (folder / "composed" / file).read_bytes()


def test_branches_compute_what_modules_compute(parents: Path, tmp_path: Path) -> None:
    """A network of two parents' modules gives the logits of both, calibrated, in the order that was asked for."""
    extract_module(parents / "first", tmp_path / "a", ["dog", "bee"])
    extract_module(parents / "second", tmp_path / "b", ["hen", "elk"], masks="folded")
    order = ["elk", "dog", "hen", "bee"]
    chosen = [Calibration(2.0, 0.5), Calibration(1.0, -1.0)]
    compose_modules([tmp_path / "a", tmp_path / "b"], tmp_path / "both", order, calibrations=chosen)
    first, second, both = (load_module(tmp_path / name)(images()) for name in ("a", "b", "both"))
    every = torch.cat([first / 2 + 0.5, second - 1], 1)  # dog, bee, hen, elk
    assert torch.allclose(every[:, [3, 0, 2, 1]], both, rtol=1e-5, atol=1e-6)
    said = read_module(tmp_path / "both").description
    assert tuple(order) == said.classes
    assert [["dog", "bee"], ["hen", "elk"]] == [list(origin.classes) for origin in said.parents]
    assert not verify(tmp_path / "both").damage


def test_branches_normalise_anew(tmp_path: Path) -> None:
    """A network takes inputs as its first parent does, and gives each branch what it was trained on."""
    scales = {"a": InputScale((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), "b": InputScale((0.4, 0.4, 0.5), (0.2, 0.3, 0.25))}
    for name, classes in (("a", ("ant", "bee", "cat", "dog")), ("b", ("elk", "fox", "gnu", "hen"))):
        folder, seed = tmp_path / f"{name}-net", ord(name)
        make_parent(folder, "plain", seed, generators=False, classes=classes, inputs=scales[name])
        extract_module(folder, tmp_path / name)
    compose_modules([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    pixels = images().sigmoid()
    given = {
        name: (pixels - torch.tensor(scale.mean)[:, None, None]) / torch.tensor(scale.deviation)[:, None, None]
        for name, scale in scales.items()
    }
    wanted = torch.cat([load_module(tmp_path / name)(given[name]) for name in "ab"], 1)
    both = load_module(tmp_path / "both")
    assert torch.allclose(wanted, both(given["a"]), rtol=1e-4, atol=1e-5)
    assert scales["a"] == read_module(tmp_path / "both").description.parents[0].inputs
    assert set(both.state_dict()) == set(read_module(tmp_path / "both").checkpoint.tensors)


def test_inputs_of_unknown_scale_are_refused(parents: Path, tmp_path: Path) -> None:
    """Whether two parents take the same inputs must be known of both, or of neither."""
    make_parent(tmp_path / "net", classes=("x", "y", "z", "w"), inputs=InputScale((0.1,) * 3, (0.5,) * 3))
    extract_module(tmp_path / "net", tmp_path / "a")
    extract_module(parents / "first", tmp_path / "b")
    with pytest.raises(RecipeError, match="it is known how their inputs are normalised"):
        compose_modules([tmp_path / "a", tmp_path / "b"], tmp_path / "both")


def test_several_modules_of_each_of_several_parents(parents: Path, tmp_path: Path) -> None:
    """Modules of one parent are united first; a class that is not asked for is left out, and its module with it."""
    for name, parent, chosen in (("a", "first", ["ant"]), ("b", "second", ["gnu"]), ("c", "first", ["cat", "bee"])):
        extract_module(parents / parent, tmp_path / name, chosen)
    extract_module(parents / "third", tmp_path / "d", ["bee"])
    compose_modules([tmp_path / name for name in "abcd"], tmp_path / "all", ["cat", "gnu", "ant"])
    extract_module(parents / "first", tmp_path / "union", ["ant", "cat"])
    found = load_module(tmp_path / "all")(images())
    assert torch.allclose(load_module(tmp_path / "b")(images())[:, 0], found[:, 1], rtol=1e-5, atol=1e-6)
    said = read_module(tmp_path / "all").description
    assert [["ant", "cat"], ["gnu"]] == [list(origin.classes) for origin in said.parents]


def test_parent_that_has_moved(parents: Path, tmp_path: Path) -> None:
    """A parent is found where it was, or where the user says it is; another network is not taken for it."""
    parent = shutil.copytree(parents / "first", tmp_path / "parent")
    for name in ("ant", "cat"):
        extract_module(parent, tmp_path / name, [name])
    modules = [tmp_path / "ant", tmp_path / "cat"]
    shutil.move(parent, tmp_path / "moved")
    with pytest.raises(RecipeError, match=r"the parent 'parent' of .* is not found .* say where it is with --parent"):
        compose_modules(modules, tmp_path / "composed")
    with pytest.raises(RecipeError, match="is another network"):
        compose_modules(modules, tmp_path / "composed", parents=[parents / "third"])
    compose_modules(modules, tmp_path / "composed", parents=[tmp_path / "moved"])
    assert ("ant", "cat") == read_module(tmp_path / "composed").description.classes


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "nothing": ([], {}, "no module is given"),
    "class of two parents": (["a", "d"], {}, "class 'bee' is in"),
    "unknown class": (["a", "b"], {"classes": ["yak"]}, "there is no class 'yak'; expected some of bee, ant, elk"),
    "class twice": (["a", "b"], {"classes": ["ant", "ant"]}, "class 'ant' is chosen twice"),
    "masks of two kinds": (["a", "h"], {}, "has masks 'hard' and"),
    "calibrations of one parent": (["a"], {"calibrations": [Calibration()]}, "all modules are of one parent"),
    "calibrations": (["a", "b"], {"calibrations": [Calibration()]}, "1 calibration; expected 2, one for each parent"),
    "images of another size": (["a", "s"], {"classes": ["ant", "x"]}, "the modules take inputs of [3, 12, 12] and of"),
    "composed already": (["ab", "a"], {}, "is composed of modules of 2 parents"),
    "a parent": (["../first"], {}, "it has no modules.json"),
}


@pytest.fixture(scope="module")
def modules(parents: Path) -> Path:
    """Modules of all kinds."""
    folder = parents / "modules"
    folder.mkdir()
    extract_module(parents / "first", folder / "a", ["bee", "ant"])
    extract_module(parents / "second", folder / "b", ["elk"])
    extract_module(parents / "third", folder / "d", ["bee"])
    extract_module(parents / "first", folder / "h", ["cat"], masks="hard")
    compose_modules([folder / "a", folder / "b"], folder / "ab")
    shutil.copytree(folder / "b", folder / "s")
    document = json.loads((folder / "s" / "modules.json").read_text())
    document["architecture"]["input_shape"] = [3, 13, 13]
    text = json.dumps(document).replace('"elk"', '"x"').replace("xxh3-128:", "xxh3-128:0")
    (folder / "s" / "modules.json").write_text(text)
    return folder


@pytest.mark.parametrize(("names", "options", "text"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(
    modules: Path, tmp_path: Path, names: list[str], options: dict[str, Any], text: str
) -> None:
    """What cannot be one network is an error of one line that names the modules, and leaves nothing behind."""
    with pytest.raises(DovetailError) as caught:
        compose_modules([modules / name for name in names], tmp_path / "composed", **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf")), (True, 0.0)])
def test_wrong_calibrations_are_refused(numbers: tuple[float, float]) -> None:
    """Temperatures are positive numbers, and biases numbers."""
    with pytest.raises(RecipeError, match="finite numbers, and a temperature above 0"):
        Calibration(*numbers)


def _set(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def _drop(*keys: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


LAYER = "layers.0.conv1"
HOSTILE = {
    "no classes": (_drop("classes"), "the file lacks classes"),
    "format": (_set("format", value="x"), "the format is 'x'"),
    "classes of nobody": (_set("classes", value=["bee", "eel"]), "the classes are not those of the parents"),
    "no parents": (_set("parents", value=[]), "the classes are not those of the parents"),
    "no parent": (_set("parents", 0, value=7), "parent 0 is 7"),
    "digest": (_set("parents", 0, "digest", value="\n"), "the digest of parent 0 is"),
    "masks": (_set("parents", 0, "masks", value="soft"), "masks of parent 0 is 'soft'"),
    "threshold": (_set("parents", 0, "threshold", value=2.0), "threshold of parent 0 is 2.0"),
    "inputs": (_set("parents", 0, "inputs", value={"mean": [0], "deviation": [1]}), "mean of inputs of parent 0"),
    "deviation": (
        _set("parents", 0, "inputs", value={"mean": [0, 0, 0], "deviation": [1, 1, 0]}),
        "deviation of inputs of parent 0",
    ),
    "kernels beyond": (_set("parents", 0, "kernels", LAYER, "kept", value="0-99"), "kernels of layer 'layers.0.conv1'"),
    "no kernels": (_set("parents", 0, "kernels", LAYER, "kept", value=""), "kernels of layer 'layers.0.conv1'"),
    "endless kernels": (_set("parents", 0, "kernels", LAYER, "of", value=2**31 - 1), "has 2147483647 kernels"),
    "samples": (_set("parents", 0, "classes", "bee", "samples", value=0), "samples, thresholds or kernels of class"),
    "thresholds": (_set("parents", 0, "classes", "bee", "thresholds", LAYER, value="x"), "the threshold of layer"),
    "counts": (_set("parents", 0, "classes", "bee", "kernels", LAYER, value=-1), "has -1 kernels of layer"),
    "no tensor": (_drop("tensors", "fc.weight"), "tensor 'fc.weight' is only in one of"),
    "tensor of no parent": (_set("tensors", "fc.weight", "parent", value=1), "the parent of tensor 'fc.weight' is 1"),
    "rows": (_set("tensors", "fc.weight", "rows", value="0-7"), "the rows of tensor 'fc.weight' are '0-7'"),
    "rows of another kind": (_set("tensors", "fc.weight", "rows", value=[0, 1]), "rows of tensor 'fc.weight' is"),
    "endless rows": (_set("tensors", "fc.weight", "rows", value="0-2000000000"), "the rows of tensor 'fc.weight'"),
    "twice": (_set("tensors", "fc.weight", "rows", value="1,1"), "the rows of tensor 'fc.weight' are '1,1'"),
    "falling": (_set("tensors", "fc.weight", "rows", value="3-1"), "the rows of tensor 'fc.weight' are '3-1'"),
    "columns of a bias": (_set("tensors", "fc.bias", "columns", value="0"), "the columns of tensor 'fc.bias'"),
    "network": (
        _set("architecture", "nodes", 0, "attributes", "out_channels", value=9),
        "gets [9, 12, 12] for each sample",
    ),
}


@pytest.mark.parametrize(("damage", "text"), HOSTILE.values(), ids=HOSTILE)
def test_corrupt_descriptions_are_refused(
    modules: Path, tmp_path: Path, damage: Callable[[Any], None], text: str
) -> None:
    """A damaged or hostile modules.json is an error of a checkpoint, of one line that names the place."""
    folder = shutil.copytree(modules / "a", tmp_path / "module")
    document = json.loads((folder / "modules.json").read_text())
    damage(document)
    (folder / "modules.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        read_module(folder)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)

"""The commands about modules, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.command import dovetail
from tests.engine.modular.parents import make_parent


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two modular networks of other classes."""
    folder = tmp_path_factory.mktemp("networks")
    make_parent(folder / "net", "vgg")
    make_parent(folder / "other", "plain", classes=("elk", "fox", "gnu", "hen"), generators=False)
    return folder


def test_a_worked_example(networks: Path, tmp_path: Path) -> None:
    """Modules are extracted, shown, and put together; the same command has nothing to do."""
    cats, elks, both = tmp_path / "cats", tmp_path / "elks", tmp_path / "both"
    outcome = dovetail("modules", "extract", networks / "net", cats, "--classes", "cat, ant", "--masks", "folded")
    assert 0 == outcome.code
    assert "mean masks folded into the weights" in outcome.out
    assert "classes, in the order of the logits: cat, ant\n" in outcome.out
    assert 0 == dovetail("modules", "extract", networks / "other", elks, "--classes", "elk", "--quiet").code
    again = dovetail("modules", "extract", networks / "other", elks, "--classes", "elk")
    assert "is this module already" in again.err
    outcome = dovetail("modules", "compose", cats, elks, both, "--temperature", "2,1", "--bias", "0,-1", "--json")
    assert (0, ["cat", "ant", "elk"]) == (outcome.code, json.loads(outcome.out.splitlines()[-1])["classes"])
    shown = json.loads(dovetail("modules", "inspect", both, "--json").out)
    assert [["cat", "ant"], ["elk"]] == [list(parent["classes"]) for parent in shown["parents"]]
    assert f"of net ({shown['parents'][0]['digest']}), threshold 0.9" in dovetail("modules", "inspect", both).out
    assert 0 == dovetail("verify", both, "--quiet").code


def test_networks_are_shown(networks: Path) -> None:
    """A modular network is shown by its masked layers, and how to go on."""
    outcome = dovetail("modules", "inspect", networks / "net")
    assert "masked layer  kernels  height  width\n3                   9      12     12\n" in outcome.out
    assert ["3", "7"] == list(json.loads(dovetail("modules", "inspect", networks / "net", "--json").out)["layers"])


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("extract", "{net}", "{out}", "--classes", "cow"), 2, "there is no class 'cow'; expected some of ant, bee"),
        (("extract", "{net}", "{out}", "--masks", "soft"), 2, "masks are 'soft'; expected one of generators, "),
        (("extract", "{net}", "{out}", "--classes", ","), 2, "no class is chosen"),
        (("extract", "{out}", "{out}"), 3, "there is no modular network at"),
        (("compose", "{net}", "{out}"), 3, "it has no modules.json"),
        (("compose", "{net}"), 2, "give at least one module and the folder to make"),
        (("compose", "{net}", "{out}", "--temperature", "x"), 2, "--temperature is 'x'; expected numbers"),
        (("compose", "{net}", "{out}", "--temperature", "0"), 2, "a temperature above 0"),
        (("compose", "{net}", "{out}", "--temperature", "1,2", "--bias", "1"), 2, "--temperature has 2 numbers"),
        (("inspect", "{out}"), 3, "has neither modules.json nor modular.json"),
    ],
)
def test_errors_are_one_line(networks: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    """What is wrong is said in one line, with the right exit code, and nothing is left behind."""
    places = {"net": networks / "net", "out": tmp_path / "out"}
    outcome = dovetail("modules", *(argument.format(**places) for argument in arguments))
    assert (code, "") == (outcome.code, outcome.out)
    assert text in outcome.err
    assert [] == list(tmp_path.iterdir())


def test_without_torch_nothing_is_missed(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extracting, composing and showing work where torch is not installed."""
    import sys

    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    modules = [tmp_path / "a", tmp_path / "b"]
    for folder, name in zip(modules, ("ant", "bee"), strict=True):
        assert 0 == dovetail("modules", "extract", networks / "net", folder, "--classes", name).code
    assert 0 == dovetail("modules", "compose", *modules, tmp_path / "c").code
    assert 0 == dovetail("modules", "inspect", tmp_path / "c").code
    shutil.rmtree(tmp_path / "c")

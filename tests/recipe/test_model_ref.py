"""References to checkpoints, and the folders that they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import ModelRef, resolve_model_path
from dovetail.engine.recipe.model_ref import resolve_adapter_path
from dovetail.io.errors import MissingFileError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("org/name", {"path": "org/name"}),
        ("./a b/c", {"path": "./a b/c"}),
        ("org/name@main", {"path": "org/name", "revision": "main"}),
        ("m+l", {"path": "m", "lora": "l"}),
        ("m@1+l@2", {"path": "m", "revision": "1", "lora": "l", "lora_revision": "2"}),
        ({"model": "m@1"}, {"path": "m", "revision": "1"}),
        ({"model": {"path": "c++/m@x"}}, {"path": "c++/m@x"}),
        ({"model": {"path": "m", "revision": "1"}, "lora": {"path": "l"}}, {"path": "m", "revision": "1", "lora": "l"}),
        ({"model": "m", "lora": "l@2"}, {"path": "m", "lora": "l", "lora_revision": "2"}),
        ({"model": "m", "override_architecture": "X"}, {"path": "m", "override_architecture": "X"}),
    ],
)
def test_forms(written: object, expected: dict[str, str]) -> None:
    """Both of mergekit's ways to write a reference are read, and what is written out is read back the same."""
    ref = ModelRef.model_validate(written)
    assert expected == {key: value for key, value in dict(ref).items() if value is not None}
    assert ref == ModelRef.model_validate(ref.model_dump())


@pytest.mark.parametrize(
    "written",
    [
        "",
        "@1",
        "a@1@2",
        "a@",
        "a+",
        "+l",
        "a+b+c",
        7,
        None,
        [],
        {},
        {"model": 7},
        {"model": "a", "lorra": "b"},
        {"model": {"path": "a", "rev": "1"}},
        {"path": ""},
        {"model": {"path": ""}},
        {"path": "a", "modle": "b"},
        {"model": {}},
    ],
)
def test_malformed(written: object) -> None:
    """Anything else is refused."""
    with pytest.raises(ValidationError):
        ModelRef.model_validate(written)


def test_text() -> None:
    """A reference is shown as recipes write it."""
    assert "m@1+l@2" == str(ModelRef.model_validate("m@1+l@2"))


def test_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts from the current folder, and from the recipe's folder if it is not there."""
    here, recipes = tmp_path / "here", tmp_path / "recipes"
    for folder in (here / "both", recipes / "both", recipes / "mine"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert (here / "both").samefile(resolve_model_path(ModelRef(path="both"), recipes))
    assert recipes / "mine" == resolve_model_path(ModelRef(path="mine"), recipes)
    assert recipes / "mine" == resolve_model_path(ModelRef(path=str(recipes / "mine")), None)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with ~, and a user who does not exist is no crash."""
    (tmp_path / "m").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / "m" == resolve_model_path(ModelRef(path="~/m"))
    with pytest.raises(MissingFileError):
        resolve_model_path(ModelRef(path="~nobody-of-that-name/m"))


def test_hub_name(tmp_path: Path) -> None:
    """A name on the hub is refused with the command that downloads it."""
    with pytest.raises(RecipeError, match="not read yet") as caught:
        resolve_model_path(ModelRef(path="org/name-7b", revision="v1"), tmp_path)
    assert "hf download org/name-7b --revision v1 --local-dir org/name-7b" in str(caught.value)


@pytest.mark.parametrize("path", ["./gone", "/gone/away", "gone", "a/b/c", "x" * 5000])
def test_missing(path: str) -> None:
    """A path that leads nowhere is a missing checkpoint."""
    with pytest.raises(MissingFileError, match="is not there"):
        resolve_model_path(ModelRef(path=path))


def test_adapter(tmp_path: Path) -> None:
    """A model and its adapter are found each by its own path; what is said of a missing one says which it is."""
    (tmp_path / "m").mkdir()
    (tmp_path / "l").mkdir()
    ref = ModelRef.model_validate("m+l")
    assert tmp_path / "m" == resolve_model_path(ref, tmp_path)
    assert tmp_path / "l" == resolve_adapter_path(ref, tmp_path)
    with pytest.raises(MissingFileError, match=r"adapter '\./k' is not there; expected an adapter's folder"):
        resolve_adapter_path(ModelRef.model_validate("m+./k"), tmp_path)
    with pytest.raises(RecipeError, match="adapter 'org/k' is not a folder here"):
        resolve_adapter_path(ModelRef.model_validate("m+org/k@v1"), tmp_path)

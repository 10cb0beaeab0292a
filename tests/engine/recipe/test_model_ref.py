"""References to checkpoints, and the folders that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from dovetail.engine.recipe import ModelRef, load_recipe, resolve_model_path
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
    """A name that a hub may have, and no folder here has, is no path; one that is a folder is."""
    assert resolve_model_path(ModelRef(path="org/name-7b", revision="v1"), tmp_path) is None
    (tmp_path / "org" / "name-7b").mkdir(parents=True)
    assert tmp_path / "org" / "name-7b" == resolve_model_path(ModelRef(path="org/name-7b"), tmp_path)


def test_addresses() -> None:
    """An address is kept whole, but for an adapter and for the revision of a hub's."""
    ref = ModelRef.model_validate("https://host:8/a%40b/c+org/lora")
    assert ("https://host:8/a%40b/c", None, "org/lora") == (ref.path, ref.revision, ref.lora)
    assert ref == ModelRef.model_validate(ref.model_dump())
    ref = ModelRef.model_validate("hf://org/name@v1")
    assert ("hf://org/name", "v1") == (ref.path, ref.revision)


@pytest.mark.parametrize(
    "text",
    ["https://me:secret@host/m", "https://secret@host/m", "s3://b/m?signature=secret", "https://host/m#secret"],
)
@pytest.mark.parametrize("form", [lambda text: text, lambda text: {"model": text}, lambda text: {"path": text}])
def test_addresses_hold_no_secrets(text: str, form: Callable[[str], Any]) -> None:
    """A password or a signature would end up in the manifest: it is refused, and not quoted."""
    with pytest.raises(ValidationError, match="with a user, a query or a fragment") as caught:
        ModelRef.model_validate(form(text))
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)
    assert "#secret" not in str(caught.value)


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
    assert resolve_adapter_path(ModelRef.model_validate("m+org/k@v1"), tmp_path) is None  # it may be on a hub


def test_ctrl_c_while_a_recipe_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of writing a recipe is Ctrl-C, and no error about writing; other errors stay as they are."""
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    recipe = load_recipe(text)

    def stop(self: ModelRef) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelRef, "__str__", stop)
    with pytest.raises(KeyboardInterrupt):
        recipe.to_json()

    def fail(self: ModelRef) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(ModelRef, "__str__", fail)
    with pytest.raises(PydanticSerializationError, match="ZeroDivisionError"):
        recipe.to_json()

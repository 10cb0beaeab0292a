"""Recipes from files and texts, for the made-up table and Dovetail's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.recipe import expand, load_recipe, resolve_model_path
from dovetail.engine.recipe.reader import MAX_TEXT_BYTES
from tests.engine.recipe.rows import TABLE, llama

TEXT = "merge_method: average\nmodels: [{model: m}]\nparameters: {weight: 1}\n"


def test_file(tmp_path: Path) -> None:
    """A recipe from a file knows its file, for errors, and its folder, for relative paths of models."""
    (tmp_path / "m").mkdir()
    path = tmp_path / "r.yml"
    path.write_text(TEXT)
    for given in (path, str(path)):
        recipe = load_recipe(given, TABLE)
        assert (TEXT, tmp_path, str(path)) == (recipe.text, recipe.origin.folder, recipe.origin.name)
        assert tmp_path / "m" == resolve_model_path(recipe.models[0].model, recipe.origin.folder)


def test_text() -> None:
    """Text of several lines, or JSON in one, is the recipe itself."""
    text = '{"merge_method": "average", "models": [{"model": "m"}], "parameters": {"weight": 1}}'
    assert load_recipe(TEXT, TABLE).canonical_json() == load_recipe(text, TABLE).canonical_json()


def test_byte_order_mark(tmp_path: Path) -> None:
    """Editors that put a byte order mark before UTF-8 do no harm."""
    path = tmp_path / "r.yml"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert TEXT == load_recipe(path, TABLE).text


def test_windows_line_ends(tmp_path: Path) -> None:
    """Nor do the line ends of Windows, and they are kept."""
    path = tmp_path / "r.yml"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    assert TEXT.replace("\n", "\r\n") == load_recipe(path, TABLE).text


def test_errors_name_the_file(tmp_path: Path) -> None:
    """File, line and key path are all in the message."""
    path = tmp_path / "r.yml"
    path.write_text(TEXT.replace("weight", "wieght"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, TABLE)
    assert f"{path}, line 3: parameters.wieght is not a parameter of average" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is missing, a folder, too large or not text is refused, and named."""
    with pytest.raises(RecipeError, match=r"gone.yml' cannot be read: No such file"):
        load_recipe(tmp_path / "gone.yml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe("a\0b")
    path = tmp_path / "r.yml"
    path.write_bytes(b"x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(RecipeError, match=r"r.yml: the recipe is too large"):
        load_recipe(path)
    path.write_bytes(TEXT.encode() + b"# \xff")
    with pytest.raises(RecipeError, match=rf"r.yml: byte {len(TEXT) + 2} is not UTF-8 text"):
        load_recipe(path)
    path.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        load_recipe(path)


def test_errors_hide_pydantic() -> None:
    """The message stands alone: no chain of another library's report."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(TEXT + "modles: 1\n", TABLE)
    assert caught.value.__suppress_context__


def test_own_methods() -> None:
    """Without a table, Dovetail's own methods and their parameters are meant."""
    recipe = load_recipe(
        "merge_method: cabs\nbase_model: base\nmodels: [{model: a}, {model: b, parameters: {n_val: 3}}]\n"
        "parameters: {weight: 1.2, default_n_val: 64, default_m_val: 256, pruning_order: [b, a]}\n"
    )
    expansion = expand(recipe, METHODS["cabs"], {ref: llama(2) for ref in recipe.references()})
    assert [3, 64] == [values["n"] for values in expansion.tensors[0].model_parameters]
    with pytest.raises(RecipeError, match="did you mean 'cabs'"):
        load_recipe("merge_method: cbas\nmodels: [{model: a}]")

"""Hostile recipes and folders: refused for what they are, soon, in a line of bearable length, and nothing is made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe import load_recipe
from dovetail.io.opening import read_checkpoint
from tests.attacks.folders import CONFIG, FILE, FOLDER_ATTACKS, FolderAttack
from tests.attacks.indexes import save
from tests.attacks.recipes import RECIPE_ATTACKS, RecipeAttack
from tests.engine.command import dovetail
from tests.engine.conftest import Family, family  # noqa: F401  a fixture

LONGEST_SECONDS = 5.0
"""Most processor time that reading may take; the slowest takes 3 s of it."""


@pytest.mark.parametrize("attack", RECIPE_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_recipes(attack: RecipeAttack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each defect is named; no code runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yml"
    path.write_bytes(attack.content)
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert time.process_time() - began < LONGEST_SECONDS
    text = str(caught.value)
    assert attack.text in text
    assert str(path) in text
    assert len(text) < 1_000
    assert text.isprintable()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("attack", FOLDER_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_folders(attack: FolderAttack, tmp_path: Path) -> None:
    """Pipes and devices hang nothing, links lead nowhere, and size alone takes no memory."""
    folder = tmp_path / "model"
    folder.mkdir()
    save(folder / FILE, "w")
    (folder / CONFIG).write_text("{}")
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    read_checkpoint(folder)
    attack.build(folder)
    began = time.process_time()
    with pytest.raises(attack.error) as caught:
        read_checkpoint(folder)
    assert time.process_time() - began < LONGEST_SECONDS
    assert attack.error is type(caught.value)
    assert attack.text in str(caught.value)
    assert str(folder) in str(caught.value)


def test_private_files_are_not_brought_along(family: Family) -> None:  # noqa: F811  a fixture
    """A side file that is a link out of the base model does not end up in the output; one that stays inside does."""
    (family.home / "secret").write_text("secret")
    (family.base / "notes.txt").symlink_to(family.home / "secret")
    (family.base / "more.txt").symlink_to("/etc/hostname")
    (family.base / "special_tokens_map.json").symlink_to("tokenizer.json")
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    names = {path.name for path in family.out.iterdir()}
    assert "special_tokens_map.json" in names
    assert not {"notes.txt", "more.txt"} & names

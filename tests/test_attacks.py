"""Hostile recipes and folders: refused for what they are, soon, in a line of bearable length, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dovetail.engine import merge
from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.recipe import load_recipe
from dovetail.io.errors import CheckpointError
from dovetail.io.opening import read_checkpoint
from tests.attacks.folders import CONFIG, FILE, FOLDER_ATTACKS, FolderAttack
from tests.attacks.indexes import save
from tests.attacks.recipes import RECIPE_ATTACKS, RecipeAttack
from tests.attacks.tokenizers import ODD_FILES, TOKENIZER_ATTACKS, TokenizerAttack
from tests.checkpoints import write_recipe
from tests.engine.command import dovetail
from tests.engine.conftest import Family, family  # noqa: F401  a fixture
from tests.engine.planning.vocabulary.samples import recipe, write_model
from tests.pace import within

LONGEST_SECONDS = 5.0
"""Most processor time that reading may take; the slowest takes 3 s of it."""


@pytest.mark.parametrize("attack", RECIPE_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_recipes(attack: RecipeAttack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each defect is named; no code runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yml"
    path.write_bytes(attack.content)
    with within(LONGEST_SECONDS), pytest.raises(RecipeError) as caught:
        load_recipe(path)
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
    with within(LONGEST_SECONDS), pytest.raises(attack.error) as caught:
        read_checkpoint(folder)
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


@pytest.mark.parametrize("attack", TOKENIZER_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_tokenizers(attack: TokenizerAttack, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tokenizer files of any make end in an error of one line; where nothing is asked of them they do no harm."""
    folder = write_model(tmp_path / "model", ["?", "a", "b"])
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    path = write_recipe(tmp_path / "recipe.yml", **recipe([folder], tokenizer_source="union"))
    make_plan(path)
    attack.build(folder)
    with within(LONGEST_SECONDS), pytest.raises(CheckpointError) as caught:
        make_plan(path)
    assert attack.text in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1_000
    make_plan(write_recipe(path, **recipe([folder])))


@pytest.mark.parametrize("odd", ODD_FILES)
def test_odd_tokenizers(odd: str, tmp_path: Path) -> None:
    """What is strange but can be used gives an output that is sound; no claim of a file decides how large it is."""
    folder = write_model(tmp_path / "model", ["?", "a", "b"])
    other = write_model(tmp_path / "other", ["?", "b", "c"])
    name, content = ODD_FILES[odd]
    (folder / name).write_text(content)
    asked = recipe([folder, other], tokenizer_source="union", chat_template="auto")
    path = write_recipe(tmp_path / "recipe.yml", **asked)
    with within(LONGEST_SECONDS):
        merge(path, tmp_path / "out")
    made = read_checkpoint(tmp_path / "out").tensors["lm_head.weight"]
    assert made.shape[0] <= 7
    vocab = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab()
    assert max(vocab.values()) < made.shape[0]

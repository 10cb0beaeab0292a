"""Small files that are not wanted are left out, and everything knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import PlanOptions, merge, verify
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.vocabulary.files import FILES
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.planning.vocabulary.samples import write_model

KEPT = {"config.json", "generation_config.json", "model.safetensors"} | {
    f"dovetail_{name}" for name in ("recipe.yml", "manifest.json", "inputs.json")
}


@pytest.fixture
def models(family: Family) -> Family:
    """Give the base model every file that a tokenizer can have, and another."""
    for name in (*FILES, "generation_config.json"):
        (family.base / name).write_text("{}")
    return family


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def options(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dovetail_manifest.json").read_bytes())["options"]
    return found


def test_everything_is_there_by_default(models: Family) -> None:
    """Without a word, tokenizer files and the model card are written, and the manifest says nothing of them."""
    merge(models.recipe_path, models.out)
    assert KEPT | set(FILES) | {"README.md"} == names(models.out)
    assert {"dtype", "seed", "nonfinite", "shard_size_bytes"} == set(options(models.out))


def test_what_is_left_out(models: Family) -> None:
    """Either can be left out, and nothing else goes; the manifest says so, and the output can be computed again."""
    assert 0 == dovetail("merge", models.recipe_path, models.out, "--no-copy-tokenizer").code
    assert KEPT | {"README.md"} == names(models.out)
    assert options(models.out)["copy_tokenizer"] is False
    bare = models.home / "bare"
    assert 0 == dovetail("merge", models.recipe_path, bare, "--no-copy-tokenizer", "--no-write-model-card").code
    assert KEPT == names(bare)
    assert (False, False) == (options(bare)["copy_tokenizer"], options(bare)["model_card"])
    verify(bare)
    assert 37_440 * 2 == recompute(bare, 1.0)


def test_plans_differ_by_what_is_left_out(models: Family) -> None:
    """An unfinished merge is not continued by one that is to write other files."""
    wanted = [PlanOptions(), PlanOptions(copy_tokenizer=False), PlanOptions(model_card=False)]
    assert 3 == len({make_plan(models.recipe_path, each).hash for each in wanted})
    codes = [
        json.loads(dovetail("plan", models.recipe_path, "--memory", "64GiB", "--json", *flags).out)["hash"]
        for flags in ((), ("--no-copy-tokenizer",), ("--no-write-model-card",))
    ]
    assert [make_plan(models.recipe_path, each).hash for each in wanted] == codes


def test_a_tokenizer_that_the_recipe_asks_for_is_written(tmp_path: Path) -> None:
    """As with mergekit, not to copy a tokenizer does not mean not to make one."""
    model = write_model(tmp_path / "one", ["?", "a"])
    models = [{"model": str(model), "parameters": {"weight": 1}}]
    recipe = {"merge_method": "linear", "base_model": str(model), "models": models, "tokenizer_source": "base"}
    merge(recipe, tmp_path / "out", PlanOptions(copy_tokenizer=False))
    assert "tokenizer.json" in names(tmp_path / "out")


def test_a_chat_template_without_a_tokenizer(models: Family) -> None:
    """A chat template is part of the tokenizer's files: without these it is left out too, with a warning."""
    models.recipe(chat_template="chatml")
    outcome = dovetail("merge", models.recipe_path, models.out, "--no-copy-tokenizer")
    text = "chat_template has no effect: it is part of the tokenizer's files, and these are left out."
    assert (0, f"warning: {text}\n") == (outcome.code, outcome.err)
    assert KEPT | {"README.md"} == names(models.out)

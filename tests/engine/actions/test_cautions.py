"""What is to be looked at before a merge: every caution fires where it should, and stays silent where it should not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.actions.analysis import Analysis
from dovetail.engine.actions.analyze import analyze
from tests.checkpoints import BF16, Tensors, llama_tensors, write_checkpoint, write_recipe

BASE = llama_tensors(0)


def tuned(seed: int, times: float = 1.0, base: Tensors = BASE) -> dict[str, NDArray[Any]]:
    """Make a fine-tune whose changes are so many times as large as usual."""
    usual = llama_tensors(seed, base)
    return {
        name: (base[name].astype(float) + times * (usual[name].astype(float) - base[name].astype(float))).astype(BF16)
        for name in base
    }


def run(home: Path, *models: Tensors, base: Tensors = BASE) -> Analysis:
    """Analyse models, the first of which is called a."""
    write_checkpoint(home / "base", base)
    names = [str(write_checkpoint(home / name, each)) for name, each in zip("abc", models, strict=False)]
    return analyze(names, str(home / "base"))


def said(found: Analysis) -> list[str]:
    """Give the kinds of all cautions."""
    return [each.kind for each in found.cautions]


def test_nothing_is_said_of_ordinary_fine_tunes(tmp_path: Path) -> None:
    """Two fine-tunes of a base model, one of which has changed three times as much, give no caution."""
    assert [] == said(run(tmp_path, tuned(1), tuned(2, 3.0)))


def test_a_model_of_another_base(tmp_path: Path) -> None:
    """It is named, with the model that does come from the base; one that went far is not."""
    found = run(tmp_path, llama_tensors(7), tuned(1))
    assert ["far_model", "uneven_models"] == said(found)
    assert found.cautions[0].text.startswith("a is no fine-tune of base, while b comes from it: its changes are 14")
    assert [] == said(run(tmp_path / "far", tuned(1, 4.0), tuned(2, 4.0)))


def test_a_wrong_base_model(tmp_path: Path) -> None:
    """Two fine-tunes of another model are both far, and near each other."""
    other = llama_tensors(7)
    found = run(tmp_path, llama_tensors(1, other), llama_tensors(2, other))
    assert ["far_model", "far_model", "shared_base"] == said(found)
    assert "Name that version as base_model" in found.cautions[-1].text


def test_a_later_version_of_the_base(tmp_path: Path) -> None:
    """Fine-tunes that share most of their changes come from a later version; those that share some do not."""
    later = tuned(3, 3.0)
    found = run(tmp_path, tuned(1, 0.5, later), tuned(2, 0.5, later))
    assert ["shared_base"] == said(found)
    assert "a and b are nearer to each other than to base" in found.cautions[0].text
    little = tuned(3, 1.0)
    assert [] == said(run(tmp_path / "some", tuned(1, 1.0, little), tuned(2, 1.0, little)))


def test_models_that_give_nothing(tmp_path: Path) -> None:
    """The base model under another name is told, and one changed element is enough to be none."""
    almost = {name: values.copy() for name, values in BASE.items()}
    almost["lm_head.weight"].reshape(-1)[0] += BF16.type(0.02)
    assert ["unchanged_model"] == said(run(tmp_path, BASE, tuned(1)))
    assert "unchanged_model" not in said(run(tmp_path / "almost", almost, tuned(1)))


def test_identical_models(tmp_path: Path) -> None:
    """A model that is there twice is told; a copy with one other element shares tensors, and is no copy."""
    one = tuned(1)
    assert ["identical_models"] == said(run(tmp_path, one, one))
    other = {name: values.copy() for name, values in one.items()}
    other["lm_head.weight"].reshape(-1)[0] += BF16.type(0.02)
    found = run(tmp_path / "almost", one, other)
    assert ["shared_base", "same_tensors"] == said(found)
    assert "the same changes in 8 tensors" in found.cautions[1].text


def test_uneven_models(tmp_path: Path) -> None:
    """Ten times the norm is told, nine times is not."""
    found = run(tmp_path, tuned(1, 0.4), tuned(2, 5.0))
    assert ["uneven_models"] == said(found)
    assert "b has changed" in found.cautions[0].text
    assert [] == said(run(tmp_path / "less", tuned(1, 0.5), tuned(2, 3.5)))


def test_a_tensor_that_was_trained_anew(tmp_path: Path) -> None:
    """A matrix far off the base model's, unlike the others, is named; a vector is not."""
    one = tuned(1)
    one["model.layers.1.self_attn.q_proj.weight"] = llama_tensors(9)["model.layers.1.self_attn.q_proj.weight"]
    found = run(tmp_path, one, tuned(2))
    assert ["far_tensors"] == said(found)
    assert "a has 1 tensor far off" in found.cautions[0].text
    assert "model.layers.1.self_attn.q_proj.weight" in found.cautions[0].text
    vector = tuned(1)
    vector["model.norm.weight"] = -vector["model.norm.weight"]
    assert [] == said(run(tmp_path / "vector", vector, tuned(2)))


@pytest.mark.parametrize(("size", "expected"), [(1e-6, ["below_bfloat16"]), (1e-2, [])])
def test_changes_below_the_resolution_of_bfloat16(tmp_path: Path, size: float, expected: list[str]) -> None:
    """Small changes of float32 models are told, as a merge in bfloat16 would lose them; large ones are not."""
    random = np.random.default_rng(3)
    base = {name: values.astype(np.float32) for name, values in BASE.items()}
    models = [
        {name: each + (size * random.standard_normal(each.shape)).astype(np.float32) for name, each in base.items()}
        for _ in range(2)
    ]
    found = run(tmp_path, *models, base=base)
    assert expected * 2 == said(found)


def test_other_numbers_of_rows(tmp_path: Path) -> None:
    """A vocabulary that has grown is told, with what a recipe can do."""
    grown = tuned(1)
    grown["model.embed_tokens.weight"] = np.vstack([grown["model.embed_tokens.weight"], np.ones((3, 64), BF16)])
    found = run(tmp_path, grown, tuned(2))
    assert ["rows"] == said(found)
    assert "model.embed_tokens.weight of" in found.cautions[0].text
    assert "has 100 rows, and the base model's has 97: the rows beyond are left out" in found.cautions[0].text
    assert "tokenizer_source: union" in found.cautions[0].text


def test_tensors_that_no_model_changes(tmp_path: Path) -> None:
    """They are named where models change others; where one model changes them, they are not."""
    one, other = tuned(1), tuned(2)
    one["lm_head.weight"] = other["lm_head.weight"] = BASE["lm_head.weight"]
    found = run(tmp_path, one, other)
    assert ["unchanged_tensors"] == said(found)
    assert "No model changes 1 tensor: lm_head.weight" in found.cautions[0].text
    assert [] == said(run(tmp_path / "one", one, tuned(2)))


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Where folders have one name, cautions give whole paths."""
    names = [str(write_checkpoint(tmp_path / place / "model", BASE)) for place in ("x", "y")]
    write_checkpoint(tmp_path / "base", BASE)
    recipe = write_recipe(
        tmp_path / "recipe.yml",
        merge_method="task_arithmetic",
        base_model=str(tmp_path / "base"),
        models=[{"model": name, "parameters": {"weight": 1.0}} for name in names],
    )
    assert [name in each.text for name, each in zip(names, analyze(recipe).cautions, strict=True)] == [True, True]

"""Every command that reads a checkpoint shows the warnings about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dovetail.engine import plan_stages
from tests.checkpoints import cabs_recipe
from tests.engine.command import Outcome, dovetail


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write PyTorch models with an entry that is not a tensor, an adapter and recipes, and work in their folder."""
    random = np.random.default_rng(0)
    for name in ("base", "tuned"):
        weight = torch.from_numpy(random.standard_normal((8, 8)).astype(np.float32))
        (tmp_path / name).mkdir()
        torch.save({"model.q_proj.weight": weight, "version": 3}, tmp_path / name / "pytorch_model.bin")
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    parts = {
        f"base_model.model.model.q_proj.lora_{part}.weight": torch.ones(shape)
        for part, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    save_file(parts, tmp_path / "adapter" / "adapter_model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


REVISION = "is a local path: its revision 'v1' is ignored."


def left_out(folder: Path) -> str:
    """Give the warning about a model's entry that is not a tensor."""
    return f"1 entries of {folder} are not tensors and are left out: 'version'"


def warnings(outcome: Outcome) -> list[str]:
    """Give the warnings among the events of a command."""
    return [event["text"] for event in outcome.events if event.get("level") == "warning"]


def test_convert(models: Path) -> None:
    """A conversion warns of entries that are left out, and of parts of the reference that are ignored."""
    outcome = dovetail("convert", "base@v1", models / "out", "--json")
    assert (0, [f"base {REVISION}", left_out(models / "base")]) == (outcome.code, warnings(outcome))


def test_compare(models: Path) -> None:
    """A comparison shows the warnings about both checkpoints, and about an adapter."""
    outcome = dovetail("compare", "base@v1", "tuned+adapter@v1", "--json")
    expected = [f"base {REVISION}", left_out(models / "base"), f"adapter {REVISION}", left_out(models / "tuned")]
    assert (6, expected) == (outcome.code, warnings(outcome))


def test_inspect(models: Path) -> None:
    """The list of tensors ends with the warnings, in text and in JSON."""
    said = left_out(models / "base")
    assert f"warning: {said}" in dovetail("inspect", models / "base").out.replace("\n", " ")
    assert [said] == json.loads(dovetail("inspect", models / "base", "--json").out)["warnings"]


def test_merge_and_its_stages(models: Path) -> None:
    """A merge shows the warnings, and so does every stage that reads the checkpoint, when planned and when merged."""
    recipe = cabs_recipe(models / "r.yml", models / "base", [models / "tuned"])
    said = {left_out(models / "base"), left_out(models / "tuned")}
    assert said <= set(warnings(dovetail("merge", recipe, models / "out", "--json")))
    text = recipe.read_text()
    (models / "stages.yml").write_text(f"name: first\n{text}\n---\n{text.replace(str(models / 'base'), 'first')}")
    first, final = plan_stages(models / "stages.yml")
    assert first.plan is not None
    assert final.plan is not None
    assert said <= set(first.plan.warnings)
    assert {left_out(models / "tuned")} <= set(final.plan.warnings)
    told = warnings(dovetail("merge", models / "stages.yml", models / "staged", "--json"))
    assert [1, 2] == [told.count(left_out(models / name)) for name in ("base", "tuned")]

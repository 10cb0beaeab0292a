"""The head of a model card: which models of hubs an output comes from, and what loads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine import PlanOptions, convert, make_moe, merge
from dovetail.engine.output.lineage import hub_names
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.output import ZarrFormat
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family

COMMIT = "0123456789abcdef" * 2 + "01234567"


def snapshot(home: Path, name: str) -> Path:
    """Give the folder of a model in a hub's cache."""
    return home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT


def head(folder: Path) -> Any:
    """Read the YAML at the head of a model card."""
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front)


@pytest.fixture
def cached(family: Family) -> Family:
    """Make the base model, one fine-tune and an adapter snapshots of a hub, and merge them with a local model."""
    base = llama_tensors(0)
    for name in ("org/base", "other/math"):
        write_checkpoint(snapshot(family.home, name), base if name == "org/base" else llama_tensors(1, base))
    write_adapter(snapshot(family.home, "org/lora"), lora_tensors(1, base, ["model.layers.0.self_attn.q_proj"]))
    tuned = f"{snapshot(family.home, 'org/base')}+{snapshot(family.home, 'org/lora')}"
    models = [tuned, str(family.code), str(snapshot(family.home, "other/math"))]
    family.recipe(base_model=str(snapshot(family.home, "org/base")), models=[{"model": name} for name in models])
    return family


def test_models_of_a_hub_are_named(cached: Family) -> None:
    """Those of a hub are listed by their names, once each, adapters too; local folders are not."""
    merge(cached.recipe_path, cached.out)
    assert {
        "base_model": ["org/base", "org/lora", "other/math"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["dovetail", "merge"],
    } == head(cached.out)
    assert str(cached.home) not in (cached.out / "README.md").read_text().split("## Recipe")[0]


def test_models_of_stages_are_named(cached: Family) -> None:
    """What an output of several stages comes from is what its stages were made from."""
    first = {"name": "one"} | yaml.safe_load(cached.recipe_path.read_text())
    last = {"merge_method": "passthrough", "models": [{"model": "one"}]}
    cached.recipe_path.write_text(yaml.safe_dump_all([first, last]))
    merge(cached.recipe_path, cached.out)
    assert ["org/base", "org/lora", "other/math"] == head(cached.out)["base_model"]


def test_what_transformers_does_not_load(cached: Family) -> None:
    """A Zarr group, and a model of which the configuration names no type, are not said to load in transformers."""
    merge(cached.recipe_path, cached.out, PlanOptions(ZarrFormat()))
    assert "library_name" not in head(cached.out)
    config = snapshot(cached.home, "org/base") / "config.json"
    plain = {key: value for key, value in json.loads(config.read_text()).items() if "arch" not in key}
    config.write_text(json.dumps({key: value for key, value in plain.items() if key != "model_type"}))
    merge(cached.recipe_path, cached.home / "plain")
    assert "library_name" not in head(cached.home / "plain")
    convert(cached.math, cached.home / "converted")
    assert {"library_name": "transformers", "tags": ["dovetail"]} == head(cached.home / "converted")


def test_adapters_and_mixtures(cached: Family) -> None:
    """An extracted adapter names its base model, and a mixture of experts all its models."""
    base, math = snapshot(cached.home, "org/base"), snapshot(cached.home, "other/math")
    assert 0 == dovetail("extract-lora", math, base, cached.home / "adapter", "--rank", "2").code
    expected = {"base_model": ["org/base"], "base_model_relation": "adapter", "library_name": "peft"}
    assert expected | {"tags": ["dovetail", "lora"]} == head(cached.home / "adapter")
    experts = [{"source_model": str(path)} for path in (math, cached.code)]
    make_moe({"base_model": str(base), "gate_mode": "random", "experts": experts}, cached.home / "mixture")
    found = head(cached.home / "mixture")
    assert (["org/base", "other/math"], ["dovetail", "merge", "moe"]) == (found["base_model"], found["tags"])


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (f"hf://org/name@{COMMIT}", ["org/name"]),
        ("hf://org/name/deep/folder", ["org/name"]),
        ("hf://datasets/org/name", []),
        (f"https://host/models--org--name/snapshots/{COMMIT}/", []),
        (Path("org/name"), []),
    ],
)
def test_addresses(place: str | Path, expected: list[str]) -> None:
    """An address on a hub names a model; another address and a path that looks like a name do not."""
    assert expected == hub_names([replace(Checkpoint(Path(), None, {}, {}, ()), path=place)])

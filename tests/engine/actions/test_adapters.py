"""Models with adapters in a recipe."""

from __future__ import annotations

import json
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dovetail.engine import merge
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.locations import locate, open_location
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.run.prepare import RunOptions
from dovetail.io import open_checkpoint
from dovetail.io.errors import AdapterError, ChangedFileError
from tests.adapters import as_read, lora_tensors, merged, write_adapter
from tests.checkpoints import BF16, folder_bytes, llama_tensors, read_output, write_checkpoint
from tests.engine.command import dovetail

MODULES = ("model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a model in bfloat16 and two adapters of it, one of them in bfloat16 too."""
    base = llama_tensors(0)
    write_checkpoint(tmp_path / "base", base, shards=2)
    linear = MODULES[1:]
    write_adapter(tmp_path / "math", lora_tensors(1, base, linear))
    write_adapter(tmp_path / "code", lora_tensors(2, base, linear, dtype=BF16), r=4, lora_alpha=2)
    return tmp_path


def recipe(home: Path, **content: Any) -> Path:
    path = home / "recipe.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def linear(home: Path, **more: Any) -> Path:
    """Write a recipe that only applies the first adapter."""
    models = [{"model": f"{home}/base+{home}/math", "parameters": {"weight": 1.0}}]
    return recipe(home, merge_method="linear", models=models, **more)


def test_adapters_of_pytorch(home: Path) -> None:
    """An adapter with its tensors in a PyTorch file, as older peft saved them, gives the same bytes."""
    import torch
    from safetensors.torch import load_file

    merge(linear(home), home / "expected")
    weights = home / "math" / "adapter_model.safetensors"
    torch.save(load_file(weights), home / "math" / "adapter_model.bin")
    weights.unlink()
    merge(linear(home), home / "out")
    assert (home / "expected/model.safetensors").read_bytes() == (home / "out/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "cabs"])
def test_a_base_model_with_an_adapter_alone(home: Path, method: str) -> None:
    """With nothing that changes the base model, the output is that model with its adapter, and a warning says so."""
    ref = f"{home}/base+{home}/math"
    cuts = [{"sources": [{"model": ref, "layer_range": [first, first + 1]}]} for first in (0, 1)]
    asked = recipe(home, merge_method=method, base_model=ref, slices=cuts, parameters={"weight": 1, "n": 1, "m": 2})
    assert {f"slices[{cut}].sources names only the base model {ref}, which is not changed" for cut in (0, 1)} <= set(
        make_plan(asked).warnings
    )
    merge(asked, home / "out")
    merge(linear(home), home / "expected")
    expected, actual = read_output(home / "expected"), read_output(home / "out")
    assert set(expected) == set(actual)
    for name, values in expected.items():
        assert np.array_equal(values.view(np.uint16), actual[name].view(np.uint16)), name
    assert [] == read_manifest(home / "out")["models"]
    assert "|" not in (home / "out" / "README.md").read_text(), "a table of no models"


def test_one_adapter_alone(home: Path) -> None:
    """A linear merge of one model and its adapter is that model, rounded once to the model's own dtype."""
    merge(linear(home), home / "out")
    base, adapter = read_output(home / "base"), lora_tensors(1, read_output(home / "base"), MODULES[1:])
    expected = {name: each.astype(BF16) for name, each in merged(base, adapter).items()}
    actual = read_output(home / "out")
    assert set(expected) == set(actual)
    for name, each in expected.items():
        assert BF16 == actual[name].dtype
        assert each.tobytes() == actual[name].tobytes(), name


def test_task_vectors_are_the_products(home: Path) -> None:
    """For X+a and X+b with base X, each task vector is the adapter's product alone, and both are added."""
    models = [{"model": f"{home}/base+{home}/{name}", "parameters": {"weight": 1.0}} for name in ("math", "code")]
    path = recipe(home, merge_method="task_arithmetic", base_model=f"{home}/base", models=models, dtype="float32")
    merge(path, home / "out")
    base, actual = read_output(home / "base"), read_output(home / "out")
    math = merged(base, lora_tensors(1, base, MODULES[1:]))
    code = merged(base, lora_tensors(2, base, MODULES[1:], dtype=BF16), 0.5)
    for name, each in base.items():
        origin = each.astype(np.float32)
        expected = (origin + (math[name] - origin)) + (code[name] - origin)
        np.testing.assert_allclose(actual[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)
        assert (name.rpartition(".")[0] in MODULES[1:]) == bool((actual[name] != origin).any()), name
    norms = read_manifest(home / "out")["tensors"][f"{MODULES[1]}.weight"]["statistics"]["task_vector_norm"]
    product = math[f"{MODULES[1]}.weight"] - base[f"{MODULES[1]}.weight"].astype(np.float32)
    np.testing.assert_allclose(norms[0], np.linalg.norm(product.astype(np.float64)), rtol=1e-5)


@pytest.mark.parametrize("name", ["math", "code"])
def test_the_base_model_can_have_one(home: Path, name: str) -> None:
    """With X+a as the base model and no weight on X, the result is X+a, rounded to the dtype of X."""
    model = f"{home}/base+{home}/{name}"
    models = [{"model": f"{home}/base", "parameters": {"weight": 0.0}}]
    path = recipe(home, merge_method="task_arithmetic", base_model=model, models=models)
    merge(path, home / "out")
    expected = as_read(open_location(locate(ModelRef.model_validate(model))).tensors)
    for key, actual in read_output(home / "out").items():
        assert BF16 == actual.dtype
        assert expected[key].astype(BF16).tobytes() == actual.tobytes()


def test_chunks_and_workers_do_not_matter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that cut rows, and several workers, give the same bytes."""
    merge(linear(home), home / "one")
    monkeypatch.setattr("dovetail.engine.planning.grid.TASK_BYTES", 1)
    monkeypatch.setattr("dovetail.engine.planning.grid.CHUNK_STEP", 100)
    merge(linear(home), home / "many", run=RunOptions(workers=3))
    assert (home / "one" / "model.safetensors").read_bytes() == (home / "many" / "model.safetensors").read_bytes()


def test_processes_do_not_matter(home: Path, processes: Executor) -> None:
    """Tasks with adapters can be sent to other processes, which open the adapter's files by themselves."""
    merge(linear(home), home / "one")
    merge(linear(home), home / "many", run=RunOptions(executor=processes))
    assert folder_bytes(home / "one") == folder_bytes(home / "many")


def test_the_manifest_and_the_hash_know_the_adapter(home: Path) -> None:
    """The inputs name the adapter and both of its files, another scale gives another plan, and recomputing uses it."""
    merge(linear(home), home / "out")
    (entry,) = read_manifest(home / "out")["inputs"]
    assert f"{home}/math" == entry["adapter"]["folder"]
    assert ["adapter_config.json", "adapter_model.safetensors"] == [file["name"] for file in entry["adapter"]["files"]]
    assert 0 == dovetail("verify", home / "out", "--recompute", "1.0").code
    before = make_plan(linear(home), PlanOptions()).hash
    config = json.loads((home / "math" / "adapter_config.json").read_text())
    (home / "math" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9}))
    assert before != make_plan(linear(home), PlanOptions()).hash
    done = dovetail("verify", home / "out", "--recompute", "1.0")
    assert 5 == done.code
    assert f"input {home}/math has changed since it was read" in done.err


def test_a_changed_adapter_is_noticed(home: Path) -> None:
    """A change of an adapter's file is noticed as a change of a model's file is."""
    checkpoint = make_plan(linear(home), PlanOptions()).checkpoints[0]
    checkpoint.check_unchanged()
    (home / "math" / "adapter_config.json").write_text("{}")
    with pytest.raises(ChangedFileError, match=r"adapter_config\.json changed while it was in use"):
        checkpoint.check_unchanged()


def test_the_output_cannot_be_the_adapter(home: Path) -> None:
    """The adapter's folder is an input, which a merge never overwrites."""
    done = dovetail("merge", linear(home), home / "math", "--overwrite")
    assert 5 == done.code
    assert (home / "math" / "adapter_model.safetensors").exists()


def test_a_broken_adapter_is_found(home: Path) -> None:
    """NaN from an adapter is an error that names model and adapter; --nonfinite keep lets it pass."""
    tensors = lora_tensors(1, llama_tensors(0), MODULES[1:])
    tensors[f"{MODULES[1]}.lora_A.weight"][2, 5] = np.nan
    write_adapter(home / "math", tensors)
    done = dovetail("merge", linear(home), home / "out")
    assert 3 == done.code
    assert f"{home}/base+{home}/math: tensor '{MODULES[1]}.weight' holds nan at element 5" in done.err
    assert 0 == dovetail("merge", linear(home), home / "out", "--nonfinite", "keep").code


def test_plan_says_what_is_applied(home: Path) -> None:
    """The plan names the adapter and counts the tensors that it changes."""
    done = dovetail("plan", linear(home))
    assert f"Adapter {home}/math: applied to 2 tensors of {home}/base" in done.out
    (entry,) = json.loads(dovetail("plan", linear(home), "--json").out)["adapters"]
    assert {"model": f"{home}/base", "adapter": f"{home}/math", "tensors": 2} == entry


def test_an_adapter_is_no_model(home: Path) -> None:
    """An adapter named as a model is refused; the error shows the right form, with the model it was trained on."""
    path = recipe(home, merge_method="linear", models=[{"model": f"{home}/math", "parameters": {"weight": 1.0}}])
    done = dovetail("merge", path, home / "out")
    assert 3 == done.code
    assert "is an adapter (LoRA), not a model; it was trained on org/base" in done.err
    assert "write MODEL+math in the recipe" in done.err


def test_as_a_zarr_group(home: Path) -> None:
    """As a Zarr group, the arrays that an adapter changes are float32, and the others have their stored dtypes."""
    group = open_checkpoint(home / "base", home / "math")
    base = read_output(home / "base")
    expected = merged(base, lora_tensors(1, base, MODULES[1:]))
    for name, array in group.arrays():
        values = np.asarray(array[...])
        if name.rpartition(".")[0] in MODULES[1:]:
            assert expected[name].tobytes() == values.tobytes()
        else:
            assert base[name].tobytes() == values.tobytes()


def test_an_adapter_of_another_model(home: Path) -> None:
    """A module that the model does not have is an error that names the nearest."""
    base = llama_tensors(0, layers=3)
    write_adapter(home / "math", lora_tensors(1, base, ["model.layers.2.self_attn.q_proj"]))
    with pytest.raises(AdapterError, match=r"does not have.*the nearest are 'model\.layers\.[01]\.self_attn"):
        make_plan(linear(home), PlanOptions())

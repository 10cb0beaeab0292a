"""Whole merges against the oracle, from a recipe and files to files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from tests import naive
from tests.checkpoints import Tensors, cabs_recipe, read_output, write_recipe
from tests.engine.awkward import DTYPES, SHAPES, base_tensors, same_bits, tuned_tensors, write_family
from tests.engine.command import dovetail
from tests.engine.conftest import Family


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors into chunks of 100 elements, which no usual block length divides."""
    cut(monkeypatch, 100)


def cut(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """Cut tensors into chunks of the given number of elements."""
    monkeypatch.setattr(grid, "CHUNK_STEP", elements)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)


def check_cabs(
    out: Path, base: Tensors, models: Sequence[Tensors], n: Sequence[int], m: Sequence[int], **options: Any
) -> None:
    """Compare every tensor of an output with the oracle, bit by bit."""
    weights, dtype = options.pop("weights"), options.pop("dtype")
    merged = read_output(out)
    assert set(base) == set(merged)
    for name in base:
        expected = naive.cabs(base[name], [model[name] for model in models], n, m, weights, dtype, **options).output
        assert same_bits(expected, merged[name]), name


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_models(tmp_path: Path, count: int) -> None:
    """1 to 3 models, and 5, each with another n:m and weight, give the oracle's bits."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(count)]
    folder, folders = write_family(tmp_path, base, models, shards=2)
    n, m, weights = [3, 5, 1, 64, 2][:count], [16, 7, 3, 256, 5][:count], [0.75, -1.3, 1.0, 0.1, 2.5][:count]
    recipe = write_recipe(
        tmp_path / "r.yml",
        merge_method="cabs",
        base_model=str(folder),
        models=[
            {"model": str(path), "parameters": {"n": n_j, "m": m_j, "weight": weight}}
            for path, n_j, m_j, weight in zip(folders, n, m, weights, strict=True)
        ],
    )
    merge(recipe, tmp_path / "out")
    check_cabs(tmp_path / "out", base, models, n, m, weights=weights, dtype=np.float32)


OPTIONS = tuple(
    dict(zip(("overlap", "consensus", "conflict_aware", "balanced"), values, strict=True))
    for values in itertools.product(("forbid", "minimize"), ("sum", "ties"), (True, False), (True, False))
)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_option(tmp_path: Path, options: dict[str, Any]) -> None:
    """Densities that sum to more than 1 give the oracle's bits with every combination of options."""
    base = base_tensors("bfloat16")
    models = [tuned_tensors(base, seed, "bfloat16") for seed in range(3)]
    folder, folders = write_family(tmp_path, base, models)
    parameters = {"n": 7, "m": 16, "weight": 0.9, **options}
    merge(cabs_recipe(tmp_path / "r.yml", folder, folders, parameters=parameters), tmp_path / "out")
    check_cabs(
        tmp_path / "out", base, models, [7] * 3, [16] * 3, weights=[0.9] * 3, dtype=DTYPES["bfloat16"], **options
    )


@pytest.mark.parametrize("options", [{}, {"overlap": "minimize", "consensus": "ties"}, {"balanced": False}], ids=str)
def test_chunk_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """Weights, index and configuration have the same bytes for chunks of 1 element to whole tensors."""
    base = {name: values[:2] if values.ndim > 1 else values for name, values in base_tensors("bfloat16").items()}
    models = [tuned_tensors(base, seed, "bfloat16") for seed in range(3)]
    folder, folders = write_family(tmp_path, base, models)
    recipe = cabs_recipe(tmp_path / "r.yml", folder, folders, parameters={"n": 7, "m": 24, "weight": 0.9, **options})
    seen = []
    for elements in (1, 7, 64, 100, 1 << 16):
        cut(monkeypatch, elements)
        out = tmp_path / f"out{elements}"
        assert 0 == dovetail("merge", recipe, out, "--shard-size", "500").code
        seen.append(
            {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".safetensors", ".json")}
        )
        for name in ("dovetail_manifest.json", "dovetail_inputs.json"):  # checksums are taken chunk by chunk
            del seen[-1][name]
    assert len(seen[0]) > 4
    for other in seen[1:]:
        assert seen[0] == other


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_kept(tmp_path: Path, dtype: str) -> None:
    """Without a dtype in the recipe each tensor has the base model's dtype, and is merged in float32."""
    base = base_tensors(dtype)
    models = [tuned_tensors(base, seed, dtype) for seed in range(2)]
    folder, folders = write_family(tmp_path, base, models)
    outcome = dovetail("merge", cabs_recipe(tmp_path / "r.yml", folder, folders, dtype=None), tmp_path / "out")
    warning = "warning: 8 float64 tensors are merged in float32.\n" if dtype == "float64" else ""
    assert (0, warning) == (outcome.code, outcome.err)
    check_cabs(tmp_path / "out", base, models, [4, 4], [16, 16], weights=[0.8, 0.8], dtype=DTYPES[dtype])


@pytest.mark.usefixtures("small_chunks")
def test_models_of_different_dtypes(tmp_path: Path) -> None:
    """A base in float32 and fine-tunes in four other dtypes, two of them mixed within one checkpoint, merge exactly."""
    base = base_tensors()
    models = [
        tuned_tensors(base, seed, dtype) for seed, dtype in enumerate(("bfloat16", "float16", "float64", "float8_e5m2"))
    ]
    models[0]["model.norm.weight"] = models[0]["model.norm.weight"].astype(np.float32)
    folder, folders = write_family(tmp_path, base, models)
    merge(cabs_recipe(tmp_path / "r.yml", folder, folders, dtype="float16"), tmp_path / "out")
    check_cabs(tmp_path / "out", base, models, [4] * 4, [16] * 4, weights=[0.8] * 4, dtype=np.float16)


@pytest.mark.parametrize(
    ("recipe_keys", "arguments", "expected"),
    [
        ({"dtype": "float32"}, (), "float32"),
        ({"dtype": "bfloat16", "out_dtype": "float16"}, (), "float16"),
        ({"dtype": "bfloat16", "out_dtype": "float16"}, ("--dtype", "F32"), "float32"),
        ({"dtype": None}, ("--dtype", "torch.bfloat16"), "bfloat16"),
        ({"dtype": None}, ("--dtype", "float8_e4m3fn"), "float8_e4m3fn"),
    ],
)
def test_the_output_dtype(
    tmp_path: Path, recipe_keys: dict[str, Any], arguments: tuple[str, ...], expected: str
) -> None:
    """The option beats the recipe's out_dtype, which beats its dtype."""
    base = base_tensors("bfloat16")
    models = [tuned_tensors(base, 0, "bfloat16")]
    folder, folders = write_family(tmp_path, base, models)
    assert (
        0
        == dovetail(
            "merge", cabs_recipe(tmp_path / "r.yml", folder, folders, **recipe_keys), tmp_path / "out", *arguments
        ).code
    )
    check_cabs(tmp_path / "out", base, models, [4], [16], weights=[0.8], dtype=DTYPES[expected])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float64"])
def test_weight_zero_gives_the_base_back(tmp_path: Path, dtype: str) -> None:
    """With weight 0 every bit is the base model's, its -0.0 included."""
    base = base_tensors(dtype)
    folder, folders = write_family(tmp_path, base, [tuned_tensors(base, seed, dtype) for seed in range(2)])
    parameters = {"n": 4, "m": 16, "weight": 0}
    merge(cabs_recipe(tmp_path / "r.yml", folder, folders, dtype=None, parameters=parameters), tmp_path / "out")
    merged = read_output(tmp_path / "out")
    assert any((np.signbit(tensor.astype(np.float32)) & (tensor == 0)).any() for tensor in base.values())
    for name, tensor in base.items():
        assert same_bits(tensor, merged[name]), name


@pytest.mark.usefixtures("small_chunks")
def test_gradients_and_filters(tmp_path: Path) -> None:
    """Parameters change with layers and tensor names as the recipe says, and each tensor gets its own."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(2)]
    folder, folders = write_family(tmp_path, base, models)
    by_layer_and_name = {"n": [2, 6], "weight": [{"filter": "q_proj", "value": [0.5, 1.5]}, {"value": 0.25}]}
    by_name = {"n_val": 3, "m": [{"filter": "norm", "value": 4}, {"value": 16}], "weight": 1.0}
    recipe = write_recipe(
        tmp_path / "r.yml",
        merge_method="cabs",
        base_model=str(folder),
        models=[
            {"model": str(folders[0]), "parameters": by_layer_and_name},
            {"model": str(folders[1]), "parameters": by_name},
        ],
        parameters={"m": 16},
    )
    merge(recipe, tmp_path / "out")
    merged = read_output(tmp_path / "out")
    # Three layers: the gradients are at 0, 1/2 and 1; outside the layers at 0.
    expected = {
        "model.embed_tokens.weight": ([2, 3], [16, 16], [0.25, 1.0]),
        "model.layers.0.self_attn.q_proj.weight": ([2, 3], [16, 16], [0.5, 1.0]),
        "model.layers.0.scale": ([2, 3], [16, 16], [0.25, 1.0]),
        "model.layers.1.self_attn.q_proj.weight": ([4, 3], [16, 16], [1.0, 1.0]),
        "model.layers.1.mlp.experts.weight": ([4, 3], [16, 16], [0.25, 1.0]),
        "model.layers.1.nothing": ([4, 3], [16, 16], [0.25, 1.0]),
        "model.layers.2.self_attn.q_proj.weight": ([6, 3], [16, 16], [1.5, 1.0]),
        "model.norm.weight": ([2, 3], [16, 4], [0.25, 1.0]),
    }
    assert list(SHAPES) == list(expected)
    for name, (n, m, weights) in expected.items():
        oracle = naive.cabs(base[name], [model[name] for model in models], n, m, weights, np.float32)
        assert same_bits(oracle.output, merged[name]), name


@pytest.mark.usefixtures("small_chunks")
def test_pruning_order(tmp_path: Path) -> None:
    """The recipe chooses the model that prunes first, and the manifest gives the order."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(3)]
    folder, folders = write_family(tmp_path, base, models)
    order = [2, 0, 1]
    parameters = {"n": 8, "m": 16, "weight": 0.8, "pruning_order": [str(folders[index]) for index in order]}
    manifest = merge(
        cabs_recipe(tmp_path / "r.yml", folder, folders, dtype=None, parameters=parameters), tmp_path / "out"
    )
    reordered = [models[index] for index in order]
    check_cabs(tmp_path / "out", base, reordered, [8] * 3, [16] * 3, weights=[0.8] * 3, dtype=np.float32)
    for name in base:
        masks = naive.cabs(
            base[name], [model[name] for model in reordered], [8] * 3, [16] * 3, [0.8] * 3, np.float32
        ).masks
        statistics = read_manifest(tmp_path / "out")["tensors"][name]["statistics"]
        by_model = {
            manifest["models"][index]: count
            for index, count in zip(statistics["models"], statistics["kept"], strict=True)
        }
        assert {str(folders[index]): int(mask.sum()) for index, mask in zip(order, masks, strict=True)} == by_model


@pytest.mark.usefixtures("small_chunks")
def test_other_methods(tmp_path: Path) -> None:
    """Task arithmetic and linear give the oracle's bits too, the latter without a base model."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(3)]
    folder, folders = write_family(tmp_path, base, models)
    weights = [0.5, -0.25, 0.875]
    entries = [{"model": str(path), "parameters": {"weight": w}} for path, w in zip(folders, weights, strict=True)]
    sums = write_recipe(
        tmp_path / "sums.yml",
        merge_method="task_arithmetic",
        base_model=str(folder),
        models=entries,
        parameters={"lambda": 1.5},
    )
    merge(sums, tmp_path / "sums")
    averages = write_recipe(tmp_path / "averages.yml", merge_method="linear", models=entries)
    merge(averages, tmp_path / "averages")
    summed, averaged = read_output(tmp_path / "sums"), read_output(tmp_path / "averages")
    for name in base:
        tensors = [model[name] for model in models]
        expected = naive.task_arithmetic(base[name], tensors, weights, np.float32, lambda_=1.5).output
        assert same_bits(expected, summed[name]), name
        assert same_bits(naive.linear(tensors, weights, np.float32).output, averaged[name]), name


def test_integer_tensors_are_copied(tmp_path: Path) -> None:
    """Integers and booleans are the base model's, whatever the output dtype; differences are a warning by name."""
    base = base_tensors() | {
        "position_ids": np.arange(12, dtype=np.int64).reshape(3, 4),
        "mask": np.array([True, False, True]),
        "step": np.array(7, np.int32),
    }
    model = tuned_tensors({name: tensor for name, tensor in base.items() if name in SHAPES}, 1)
    model |= {"position_ids": base["position_ids"] + 1, "mask": base["mask"], "step": base["step"]}
    folder, folders = write_family(tmp_path, base, [model])
    outcome = dovetail("merge", cabs_recipe(tmp_path / "r.yml", folder, folders), tmp_path / "out")
    assert 0 == outcome.code
    assert (
        "warning: 3 integer tensors not merged but taken from the base model.\n"
        "warning: 1 integer tensor not alike in all models, and taken from the base model, as integers are not "
        "merged: 'position_ids'\n"
    ) == outcome.err
    merged = read_output(tmp_path / "out")
    for name in ("position_ids", "mask", "step"):
        assert same_bits(base[name], merged[name])


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    """Checkpoints without tensors merge to a checkpoint without tensors, which can be loaded."""
    folder, folders = write_family(tmp_path, {}, [{}, {}])
    outcome = dovetail("merge", cabs_recipe(tmp_path / "r.yml", folder, folders), tmp_path / "out")
    assert (0, "") == (outcome.code, outcome.err)
    assert {} == read_output(tmp_path / "out")
    assert 0 == dovetail("verify", tmp_path / "out").code


def test_slices(tmp_path: Path) -> None:
    """Layers stacked from slices are merged layer by layer, renumbered, and counted in the configuration."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(2)]
    folder, folders = write_family(tmp_path, base, models)
    recipe = write_recipe(
        tmp_path / "r.yml",
        merge_method="cabs",
        base_model=str(folder),
        slices=[
            {"sources": [{"model": str(path), "layer_range": layers} for path in (folder, *folders)]}
            for layers in ([0, 2], [1, 3])
        ],
        parameters={"n": 4, "m": 16, "weight": 0.8},
    )
    merge(recipe, tmp_path / "out")
    merged = read_output(tmp_path / "out")
    came_from = {name: name for name in base if ".layers.2." not in name}
    came_from |= {name.replace("layers.1", "layers.2"): name for name in base if ".layers.1." in name}
    came_from |= {name.replace("layers.2", "layers.3"): name for name in base if ".layers.2." in name}
    assert set(came_from) == set(merged)
    for name, source in came_from.items():
        oracle = naive.cabs(base[source], [model[source] for model in models], [4, 4], [16, 16], [0.8, 0.8], np.float32)
        assert same_bits(oracle.output, merged[name]), name
    assert 4 == json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"]


@pytest.mark.usefixtures("small_chunks")
def test_enormous_counts(tmp_path: Path) -> None:
    """Densities of whole tensors are exact fractions, however large n and m are."""
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(2)]
    folder, folders = write_family(tmp_path, base, models)
    n, m = 2**61, 2**63 - 1
    parameters = {"n": n, "m": m, "weight": 1.0, "balanced": False}
    merge(cabs_recipe(tmp_path / "r.yml", folder, folders, dtype=None, parameters=parameters), tmp_path / "out")
    check_cabs(tmp_path / "out", base, models, [n] * 2, [m] * 2, weights=[1.0] * 2, dtype=np.float32, balanced=False)


def test_a_last_model_that_is_left_with_little_is_a_warning(family: Family) -> None:
    """The plan says it once, however many tensors it has, and names the model that is pruned last."""
    parameters = {"n": 3, "m": 4, "weight": 1}
    plan = make_plan(family.recipe(parameters=parameters))
    (found,) = [each for each in plan.warnings if "take 75% of the places" in each]
    assert found.startswith(f"The models before {family.code} take")
    turned = make_plan(family.recipe(parameters={**parameters, "pruning_order": [str(family.code), str(family.math)]}))
    assert any(f"The models before {family.math} take" in each for each in turned.warnings)

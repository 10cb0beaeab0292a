"""Models whose experts are stored fused in one and one by one in the other merge as if both were stored in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import PlanOptions, merge, plan
from dovetail.engine.planning.expert_layouts import is_expert
from dovetail.io.errors import TensorMismatchError
from tests.checkpoints import read_output, write_checkpoint, write_recipe
from tests.engine.command import dovetail, dovetail_process

Tensors = dict[str, NDArray[Any]]

EXPERTS, INNER, HIDDEN = 4, 8, 16
LAYERS = 2
WORDS = {
    "split": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "lfm2": ("feed_forward", "w1", "w3", "w2"),
}


def parts(seed: int, inner: int = INNER, hidden: int = HIDDEN, *, biases: bool = False) -> dict[str, Any]:
    """Make every matrix of a model once, by names that no layout has; and biases of experts."""
    random = np.random.default_rng(seed)
    found = {}
    for layer in range(LAYERS):
        for word, shape in {
            "attention": (hidden, hidden),
            "router": (EXPERTS, hidden),
            "gate": (EXPERTS, inner, hidden),
            "up": (EXPERTS, inner, hidden),
            "down": (EXPERTS, hidden, inner),
            **(
                {"gate_bias": (EXPERTS, inner), "up_bias": (EXPERTS, inner), "down_bias": (EXPERTS, hidden)}
                if biases
                else {}
            ),
        }.items():
            found[f"{layer}.{word}"] = random.standard_normal(shape).astype(np.float32)
    return found


def stored(found: dict[str, NDArray[np.float32]], layout: str) -> Tensors:
    """Store a model: ``fused``, or one by one by one of `WORDS`; by NumPy, as transformers' table says."""
    tensors: Tensors = {}
    for layer in range(LAYERS):
        place = f"model.layers.{layer}"
        gate, up, down = (found[f"{layer}.{word}"] for word in ("gate", "up", "down"))
        tensors[f"{place}.self_attn.q_proj.weight"] = found[f"{layer}.attention"]
        block, *words = WORDS.get(layout, ("mlp",))
        tensors[f"{place}.{block}.gate.weight"] = found[f"{layer}.router"]
        biases = [found[name] for name in (f"{layer}.{word}_bias" for word in ("gate", "up", "down")) if name in found]
        if layout == "fused":
            tensors[f"{place}.mlp.experts.gate_up_proj"] = np.concatenate((gate, up), axis=1)
            tensors[f"{place}.mlp.experts.down_proj"] = down
        elif layout in ("columns", "alternating"):
            gate_up = np.concatenate((gate, up), axis=1)
            if layout == "alternating":
                gate_up[:, 0::2], gate_up[:, 1::2] = gate, up
            tensors[f"{place}.mlp.experts.gate_up_proj"] = np.ascontiguousarray(gate_up.transpose(0, 2, 1))
            tensors[f"{place}.mlp.experts.down_proj"] = np.ascontiguousarray(down.transpose(0, 2, 1))
            if biases:
                tensors[f"{place}.mlp.experts.gate_up_proj_bias"] = np.stack(biases[:2], axis=2).reshape(EXPERTS, -1)
                tensors[f"{place}.mlp.experts.down_proj_bias"] = biases[2]
        else:
            for word, each in zip(words, biases, strict=False):
                for expert in range(EXPERTS):
                    tensors[f"{place}.{block}.experts.{expert}.{word}.bias"] = each[expert].copy()
            for expert in range(EXPERTS):
                for word, matrices in zip(words, (gate, up, down), strict=True):
                    tensors[f"{place}.{block}.experts.{expert}.{word}.weight"] = np.ascontiguousarray(matrices[expert])
    return tensors


def write(home: Path, name: str, tensors: Tensors, model_type: str | None = "qwen3_moe", **config: Any) -> Path:
    """Write a checkpoint of an architecture."""
    folder = write_checkpoint(home / name, tensors, config={"model_type": model_type, **config})
    if model_type is None:
        (folder / "config.json").unlink()
    return folder


def average(home: Path, *folders: Path, **changes: Any) -> Path:
    """Write a recipe that averages models."""
    content: dict[str, Any] = {"merge_method": "linear", "models": [{"model": str(folder)} for folder in folders]}
    return write_recipe(home / "recipe.yml", **(content | {"parameters": {"weight": 1}, "dtype": "float32"} | changes))


def means(seeds: tuple[int, int], **sizes: Any) -> dict[str, NDArray[np.float32]]:
    """Average two models matrix by matrix."""
    one, two = (parts(seed, **sizes) for seed in seeds)
    return {name: (one[name] + two[name]) / np.float32(2) for name in one}


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for a in ("fused", "split", "mixtral", "lfm2") for b in ("fused", "split", "mixtral", "lfm2") if a != b],
)
def test_every_pair_of_layouts(tmp_path: Path, first: str, second: str) -> None:
    """The result is the average of all matrices, bit for bit, in the layout of the first model; that is said."""
    types = {"fused": "qwen3_moe", "split": "qwen3_moe", "mixtral": "mixtral", "lfm2": "lfm2_moe"}
    a = write(tmp_path, "a", stored(parts(1), first), types[first])
    b = write(tmp_path, "b", stored(parts(2), second), types[second])
    recipe = average(tmp_path, a, b)
    merge(recipe, tmp_path / "out")
    expected, out = stored(means((1, 2)), first), read_output(tmp_path / "out")
    assert sorted(expected) == sorted(out)
    for name, values in expected.items():
        assert np.array_equal(values, out[name]), name
    assert any("experts of" in text and "merged with those of" in text for text in plan(recipe).warnings)
    assert 0 == dovetail("verify", tmp_path / "out", "--recompute", "1").code


def test_square_matrices(tmp_path: Path) -> None:
    """Where gate, up and down have one square shape, nothing is guessed from it, and the result is right."""
    sizes = {"inner": HIDDEN, "hidden": HIDDEN}
    a = write(tmp_path, "a", stored(parts(1, **sizes), "split"))
    b = write(tmp_path, "b", stored(parts(2, **sizes), "fused"))
    merge(average(tmp_path, a, b), tmp_path / "out")
    expected, out = stored(means((1, 2), **sizes), "split"), read_output(tmp_path / "out")
    assert all(np.array_equal(values, out[name]) for name, values in expected.items())


@pytest.mark.parametrize("model_type", ["dbrx", "aria_text", "a_new_one"])
@pytest.mark.parametrize("layouts", [("fused", "split"), ("split", "fused")])
def test_an_architecture_that_is_not_known_is_refused(
    tmp_path: Path, model_type: str, layouts: tuple[str, str]
) -> None:
    """How these fuse experts is not known, or transposed: the error says how each model stores them."""
    a, b = (write(tmp_path, f"m{i}", stored(parts(i), layout), model_type) for i, layout in enumerate(layouts))
    with pytest.raises(TensorMismatchError, match=rf"model_type {model_type}.*fused \(mlp.experts.gate_up_proj\)"):
        plan(average(tmp_path, a, b))


def test_two_ways_to_fuse_are_not_mixed(tmp_path: Path) -> None:
    """Fused experts of an architecture that may transpose them are not averaged with others, though names agree."""
    sizes = {"inner": HIDDEN // 2, "hidden": HIDDEN}  # gate_up_proj is square
    a = write(tmp_path, "a", stored(parts(1, **sizes), "fused"), "qwen3_moe")
    b = write(tmp_path, "b", stored(parts(2, **sizes), "fused"), "a_new_one")
    with pytest.raises(TensorMismatchError, match="architecture of which it is known how experts are fused"):
        plan(average(tmp_path, a, b))


@pytest.mark.parametrize("mixed_first", [True, False])
def test_a_model_that_mixes_layouts_is_refused(tmp_path: Path, mixed_first: bool) -> None:
    """Where a model stores the experts of one layer fused and of another one by one, nothing is merged in part."""
    one, other = parts(0), parts(1)
    fused, split = stored(one, "fused"), stored(one, "split")
    mixed = {name: each for name, each in fused.items() if ".0." in name}
    mixed |= {name: each for name, each in split.items() if ".layers.1." in name}
    folders = [write(tmp_path, "mixed", mixed), write(tmp_path, "split", stored(other, "split"))]
    recipe = average(tmp_path, *(folders if mixed_first else reversed(folders)))
    with pytest.raises(TensorMismatchError, match="in different ways, and one of them"):
        plan(recipe)
    assert plan(recipe, PlanOptions(allow_partial=True)).tensors


@pytest.mark.parametrize("model_type", ["qwen3_vl_moe", "gpt_oss", None])
def test_one_layout_needs_no_knowledge(tmp_path: Path, model_type: str | None) -> None:
    """Models of one architecture that store experts alike merge, whatever the architecture, or without a word of it."""
    a, b = (write(tmp_path, name, stored(parts(i), "fused"), model_type) for i, name in enumerate("ab"))
    merge(average(tmp_path, a, b), tmp_path / "out")
    expected, out = stored(means((0, 1)), "fused"), read_output(tmp_path / "out")
    assert all(np.array_equal(values, out[name]) for name, values in expected.items())


def test_without_a_configuration_the_other_model_tells(tmp_path: Path) -> None:
    """A model that is only weights is of the other's architecture."""
    a = write(tmp_path, "a", stored(parts(1), "split"))
    b = write(tmp_path, "b", stored(parts(2), "fused"), None)
    merge(average(tmp_path, a, b), tmp_path / "out")
    expected, out = stored(means((1, 2)), "split"), read_output(tmp_path / "out")
    assert all(np.array_equal(values, out[name]) for name, values in expected.items())


def test_a_model_with_an_expert_missing_is_refused(tmp_path: Path) -> None:
    """An export that lost a matrix is no stack: the error names the matrix."""
    broken = stored(parts(2), "split")
    del broken["model.layers.1.mlp.experts.2.up_proj.weight"]
    a, b = write(tmp_path, "a", stored(parts(1), "fused")), write(tmp_path, "b", broken)
    with pytest.raises(TensorMismatchError, match=r"experts\.2\.up_proj\.weight' .* is missing"):
        plan(average(tmp_path, a, b))


def test_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    """A stack of another number of experts is of another shape, and most of the model."""
    fewer = {name: v for name, v in stored(parts(2), "split").items() if ".experts.3." not in name}
    a, b = write(tmp_path, "a", stored(parts(1), "fused")), write(tmp_path, "b", fewer)
    with pytest.raises(TensorMismatchError, match=r"gives .* of its elements"):
        plan(average(tmp_path, a, b))


def test_a_router_by_another_name(tmp_path: Path) -> None:
    """Phi's hub names call the router ``gate``, the new ones ``router``: it is merged too."""
    a = {name.replace("mlp.gate.weight", "mlp.router.weight"): v for name, v in stored(parts(1), "fused").items()}
    b = stored(parts(2), "mixtral")
    folders = write(tmp_path, "a", a, "phimoe"), write(tmp_path, "b", b, "phimoe")
    merge(average(tmp_path, *folders), tmp_path / "out")
    out = read_output(tmp_path / "out")
    assert np.array_equal(means((1, 2))["1.router"], out["model.layers.1.mlp.router.weight"])


def test_task_vectors_and_slices(tmp_path: Path) -> None:
    """Task vectors are differences of like matrices, and layers are stacked from models stored in two ways."""
    base = write(tmp_path, "base", stored(parts(0), "fused"), num_hidden_layers=LAYERS)
    tuned = write(tmp_path, "tuned", stored(parts(1), "split"), num_hidden_layers=LAYERS)
    models = {"models": [{"model": str(tuned)}], "merge_method": "task_arithmetic", "base_model": str(base)}
    merge(average(tmp_path, **models), tmp_path / "vectors")
    one, zero = stored(parts(1), "fused"), stored(parts(0), "fused")
    for name, values in read_output(tmp_path / "vectors").items():
        assert np.array_equal((one[name] - zero[name]) + zero[name], values), name
    sources = [{"model": str(base), "layer_range": [0, 2]}, {"model": str(tuned), "layer_range": [1, 2]}]
    content = {"merge_method": "passthrough", "dtype": "float32", "slices": [{"sources": [each]} for each in sources]}
    merge(write_recipe(tmp_path / "stacked.yml", **content), tmp_path / "stacked")
    out = read_output(tmp_path / "stacked")
    assert np.array_equal(
        one["model.layers.1.mlp.experts.gate_up_proj"], out["model.layers.2.mlp.experts.gate_up_proj"]
    )


def test_chunks_change_nothing(tmp_path: Path) -> None:
    """Stacks that are cut into many chunks, each across several experts, have the same bytes."""
    sizes = {"inner": 512, "hidden": 640}
    a = write(tmp_path, "a", stored(parts(1, **sizes), "fused"))
    b = write(tmp_path, "b", stored(parts(2, **sizes), "split"))
    for seed, method in enumerate(("linear", "karcher")):
        changes = {} if method == "linear" else {"parameters": {}}
        recipe = average(tmp_path, a, b, merge_method=method, **changes)
        assert 1 < max(tensor.chunk_count for tensor in plan(recipe).tensors)
        merge(recipe, tmp_path / f"mixed{seed}")
        merge(average(tmp_path, a, write(tmp_path, f"c{seed}", stored(parts(2, **sizes), "fused")),
                      merge_method=method, **changes), tmp_path / f"plain{seed}")  # fmt: skip
        plain, mixed = (read_output(tmp_path / f"{word}{seed}") for word in ("plain", "mixed"))
        assert all(np.array_equal(plain[name], mixed[name]) for name in plain)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.shared_experts.gate_proj.weight",
        "model.layers.0.mlp.experts.gate_up_proj_scale",
        "model.layers.0.mlp.experts.01.gate_proj.weight",
        "model.layers.0.mlp.experts.0.gate_proj.scale",
        "model.layers.0.mlp.experts.0.dense.weight",
        "experts.0.w1.weight",
    ],
)
def test_names_that_are_no_experts(name: str) -> None:
    """Shared experts, scales, and names that cannot be put together again stay as they are."""
    assert not is_expert(name)


def test_qwen3_moe_of_transformers(tmp_path: Path) -> None:
    """A model saved fused and a fine-tune saved as the hub has it merge, within little memory, to a model that
    transformers loads, with the logits of the average of both.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=4, num_experts_per_tok=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen3MoeForCausalLM(config)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    model.save_pretrained(tmp_path / "fused-as-hub")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    second = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "split")
    ids = torch.arange(20).reshape(2, 10)
    model.load_state_dict({name: (first[name] + second[name]) / 2 for name in first})
    with torch.no_grad():
        expected = model(ids).logits
    for names in (("fused", "split"), ("split", "fused"), ("fused-as-hub", "split")):
        recipe = average(tmp_path, *(tmp_path / name for name in names))
        out = tmp_path / f"out-{names[0]}"
        outcome = dovetail_process("merge", recipe, out, "--memory", "512MiB", "--quiet")
        assert 0 == outcome.code, outcome.err
        loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            out, dtype=torch.float32, output_loading_info=True
        )
        assert [] == [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
        with torch.no_grad():
            assert torch.allclose(expected, loaded(ids).logits, atol=1e-6)
    unfused, hub = read_output(tmp_path / "out-split"), read_output(tmp_path / "out-fused-as-hub")
    assert sorted(hub) == sorted(unfused)
    assert all(np.array_equal(hub[name], unfused[name]) for name in hub)


def test_partial_if_asked_for(tmp_path: Path) -> None:
    """With `allow_partial`, an architecture that is not known is merged as far as names agree."""
    a, b = (write(tmp_path, n, stored(parts(i), n), "a_new_one") for i, n in enumerate(("fused", "split")))
    planned = plan(average(tmp_path, a, b), PlanOptions(allow_partial=True))
    assert any("missing in" in text for text in planned.warnings)

"""LoRA of fused experts: what peft makes of it, for experts stored together and one by one, and packed both ways."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import AdapterError, UnsupportedError
from dovetail.io.opening import read_checkpoint
from tests.adapters import as_read, write_adapter

CLOSE = 8 * 2.0**-24
"""Largest difference allowed, in parts of the largest value of the tensor: a few roundings of float32."""

EXPERTS = "model.layers.0.mlp.experts"
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other libraries warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def qwen() -> Any:
    """Make a tiny Qwen3-MoE, which fuses experts that checkpoints store one by one."""
    import torch
    import transformers

    torch.manual_seed(0)
    own = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(intermediate_size=48, **own, **SIZES))


def gpt_oss() -> Any:
    """Make a tiny GPT-OSS, whose experts are stored inputs by outputs."""
    import torch
    import transformers

    torch.manual_seed(0)
    own = {"intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    return transformers.GptOssForCausalLM(transformers.GptOssConfig(**own, **SIZES))


def mixtral() -> Any:
    """Make a tiny Mixtral, which checkpoints name otherwise."""
    import torch
    import transformers

    torch.manual_seed(0)
    own = {"intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**own, **SIZES))


def by_peft(make: Callable[[], Any], folder: Path, settings: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Train an adapter, save model and adapter, and give the checkpoint of what peft makes of both."""
    import peft
    import torch

    make().save_pretrained(folder / "model")
    adapted = peft.get_peft_model(make(), peft.LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder / "adapter")
    merged = peft.PeftModel.from_pretrained(make(), folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    return load_file(folder / "merged" / "model.safetensors")


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "split": (qwen, {"target_modules": ["q_proj"], "target_parameters": BOTH}),
    "split, ranks": (
        qwen,
        {
            "target_modules": [], "target_parameters": BOTH, "rank_pattern": {"experts.down_proj": 3},
            "alpha_pattern": {"experts.gate_up_proj": 5}, "use_rslora": True,
        },
    ),
    "split, only one": (qwen, {"target_modules": [], "target_parameters": ["experts.down_proj"]}),
    "other names": (mixtral, {"target_modules": ["v_proj"], "target_parameters": BOTH}),
    "fused": (gpt_oss, {"target_modules": ["q_proj"], "target_parameters": BOTH}),
    "fused, biases": (
        gpt_oss,
        {"target_modules": [], "target_parameters": [*BOTH, "experts.gate_up_proj_bias"], "lora_alpha": 3},
    ),
    "last components only": (gpt_oss, {"target_modules": ["q_proj"], "target_parameters": ["down_proj"]}),
    "weights of modules": (qwen, {"target_modules": [], "target_parameters": ["self_attn.q_proj.weight"]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_like_peft(kind: str, tmp_path: Path) -> None:
    """Every tensor is what peft says, and those that it does not change are left alone."""
    make, settings = CASES[kind]
    expected = by_peft(make, tmp_path, {"r": 2, **settings})
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, read_adapter(tmp_path / "adapter"))
    before = as_read(base.tensors)
    assert list(base.tensors) == list(applied.tensors)
    count = 0
    for name, actual in as_read(applied.tensors).items():
        assert np.abs(actual - expected[name]).max() <= CLOSE * np.abs(expected[name]).max(), name
        assert np.array_equal(before[name], expected[name]) == np.array_equal(before[name], actual), name
        count += not np.array_equal(before[name], actual)
    assert applied.adapter is not None
    assert count == applied.adapter.tensor_count
    assert () == applied.notes


def fused(folder: Path, down: tuple[int, ...], up: tuple[int, ...]) -> tuple[Checkpoint, dict[str, NDArray[Any]]]:
    """Write a model of three fused experts."""
    random = np.random.default_rng(0)
    tensors = {
        f"{EXPERTS}.gate_up_proj": random.standard_normal(up).astype(np.float32),
        f"{EXPERTS}.down_proj": random.standard_normal(down).astype(np.float32),
    }
    save_file(tensors, folder / "model.safetensors")
    return read_checkpoint(folder / "model.safetensors"), tensors


def factors(name: str, inputs: int, outputs: int, rank: int = 2, count: int = 3) -> dict[str, NDArray[Any]]:
    """Make the factors of one wrapper."""
    random = np.random.default_rng(inputs)
    return {
        f"{name}.lora_A.weight": random.standard_normal((count * rank, inputs)).astype(np.float32),
        f"{name}.lora_B.weight": random.standard_normal((outputs, count * rank)).astype(np.float32),
    }


def delta(parts: dict[str, NDArray[Any]], name: str, turned: bool, count: int = 3) -> NDArray[Any]:
    """Give the change of a parameter, by the sums that peft writes."""
    a, b = parts[f"{name}.lora_A.weight"], parts[f"{name}.lora_B.weight"]
    a, b = a.reshape(count, -1, a.shape[1]), b.reshape(b.shape[0], -1, count)
    return np.einsum("ore,eri->eio" if turned else "ore,eri->eoi", b, a)


@pytest.mark.parametrize("turned", [False, True])
def test_both_packings(turned: bool, tmp_path: Path) -> None:
    """Until 0.19.0, peft took every matrix for inputs by outputs: shapes tell which, and which wrapper is which."""
    base, tensors = fused(tmp_path, (3, 8, 6), (3, 12, 8))
    inner, outer = f"{EXPERTS}.base_layer", EXPERTS
    up, down = ((12, 8), (8, 6)) if turned else ((8, 12), (6, 8))
    parts = factors(inner, *up) | factors(outer, *down)
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 2, "target_parameters": BOTH, "peft_version": "0.18.1"}
    applied = apply_adapter(base, read_adapter(write_adapter(tmp_path / "a", parts, **settings)))
    actual = as_read(applied.tensors)
    for name, wrapper in ((f"{EXPERTS}.gate_up_proj", inner), (f"{EXPERTS}.down_proj", outer)):
        np.testing.assert_allclose(actual[name], tensors[name] + delta(parts, wrapper, turned), rtol=1e-4, atol=1e-5)
    assert () == applied.notes
    swapped = {k.replace(".base_layer", "") if "base_layer" in k else k.replace(".lora", ".base_layer.lora"): v
               for k, v in parts.items()}  # fmt: skip
    other = apply_adapter(base, read_adapter(write_adapter(tmp_path / "b", swapped, **settings)))
    for name, each in as_read(other.tensors).items():
        assert np.array_equal(actual[name], each), name


@pytest.mark.parametrize(
    ("version", "turned"),
    [("", True), ("0.17.0", True), ("0.18.1", True), ("0.19.0", True), ("0.19.1", False), ("0.21.2.dev0", False)],
)
def test_square_experts(version: str, turned: bool, tmp_path: Path) -> None:
    """Where all matrices are square, the version of peft tells, and a note says that it was asked."""
    base, tensors = fused(tmp_path, (3, 8, 8), (3, 8, 6))
    parts = factors(EXPERTS, 8, 8)
    settings = {
        "r": 2,
        "lora_alpha": 2,
        "target_parameters": BOTH[1:],
        **({"peft_version": version} if version else {}),
    }
    applied = apply_adapter(base, read_adapter(write_adapter(tmp_path / "a", parts, **settings)))
    name = f"{EXPERTS}.down_proj"
    expected = tensors[name] + delta(parts, EXPERTS, turned)
    np.testing.assert_allclose(as_read(applied.tensors)[name], expected, rtol=1e-4, atol=1e-5)
    (note,) = applied.notes
    assert "square matrices" in note
    assert (version or "before 0.18") in note


@pytest.mark.parametrize("turned", [False, True])
def test_others_tell_of_square_ones(turned: bool, tmp_path: Path) -> None:
    """Where other parameters of the adapter are not square, they tell how all are packed, whatever the version."""
    base, tensors = fused(tmp_path, (3, 8, 8), (3, 8, 6))
    up = (8, 6) if turned else (6, 8)
    parts = factors(f"{EXPERTS}.base_layer", *up) | factors(EXPERTS, 8, 8)
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 2, "target_parameters": BOTH}
    applied = apply_adapter(base, read_adapter(write_adapter(tmp_path / "a", parts, **settings)))
    name = f"{EXPERTS}.down_proj"
    expected = tensors[name] + delta(parts, EXPERTS, turned)
    np.testing.assert_allclose(as_read(applied.tensors)[name], expected, rtol=1e-4, atol=1e-5)
    assert () == applied.notes


def test_unsloth(tmp_path: Path) -> None:
    """An adapter that Unsloth trained is read as peft reads it, and that Unsloth may have read it otherwise is said."""
    base, _ = fused(tmp_path, (3, 8, 6), (3, 12, 8))
    settings: dict[str, Any] = {"r": 2, "target_parameters": BOTH[1:], "auto_mapping": {"unsloth_fixed": True}}
    applied = apply_adapter(base, read_adapter(write_adapter(tmp_path / "a", factors(EXPERTS, 6, 8), **settings)))
    (note,) = applied.notes
    assert "Unsloth" in note


@pytest.mark.parametrize(
    ("parts", "settings", "error", "text"),
    [
        (factors(EXPERTS, 6, 9), {}, AdapterError, "shapes that fit one another"),
        (factors(EXPERTS, 6, 8, rank=3), {}, AdapterError, "ranks that the configuration says"),
        (factors(EXPERTS, 6, 8, count=2), {}, AdapterError, "shapes that fit one another"),
        (factors(EXPERTS, 6, 8), {"use_dora": True}, UnsupportedError, "a plain LoRA for each"),
        (factors(f"{EXPERTS}.base_layer", 6, 8), {"target_parameters": ["q"]}, UnsupportedError, "parameters q of"),
        (factors("model.layers.7.mlp.experts", 6, 8), {}, UnsupportedError, "which the model does not store so"),
        (factors("mtp.layers.0.mlp.experts", 6, 8), {}, AdapterError, "does not have"),
        (
            {k: v for depth in range(6) for k, v in factors(EXPERTS + depth * ".base_layer", 6, 8).items()},
            {},
            UnsupportedError,
            "by 6 wrappers",
        ),
        (
            factors(EXPERTS, 6, 8) | factors(f"{EXPERTS}.base_layer", 6, 8),
            {},
            UnsupportedError,
            "which the model does not store so",
        ),
        ({f"{EXPERTS}.lora_A.weight": np.zeros((6, 6), np.float32)}, {}, UnsupportedError, "a plain LoRA for each"),
        (factors(EXPERTS, 6, 8), {"target_parameters": []}, AdapterError, "does not have"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_refused(parts: Any, settings: dict[str, Any], error: type[Exception], text: str, tmp_path: Path) -> None:
    """Wrappers that do not fit the model or the configuration are refused, by an error that says why."""
    base, _ = fused(tmp_path, (3, 8, 6), (3, 12, 8))
    said = {"r": 2, "target_parameters": BOTH[1:], **settings}
    with pytest.raises(error) as caught:
        apply_adapter(base, read_adapter(write_adapter(tmp_path / "a", parts, **said)))
    assert text in str(caught.value)


def test_same_shapes(tmp_path: Path) -> None:
    """Where two parameters have the same shape, nothing tells which wrapper is for which, and neither is guessed."""
    base, _ = fused(tmp_path, (3, 8, 6), (3, 8, 6))
    parts = factors(f"{EXPERTS}.base_layer", 6, 8) | factors(EXPERTS, 6, 8)
    adapter = read_adapter(write_adapter(tmp_path / "a", parts, r=2, target_parameters=BOTH))
    with pytest.raises(UnsupportedError, match="that have the same shape"):
        apply_adapter(base, adapter)


def test_one_expert_missing(tmp_path: Path) -> None:
    """A checkpoint that lacks a matrix of one expert is refused, and names what it lacks."""
    by_peft(qwen, tmp_path, {"r": 2, "target_modules": [], "target_parameters": BOTH})
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.experts\.2\.up_proj\.weight'"):
        apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_parameters"]

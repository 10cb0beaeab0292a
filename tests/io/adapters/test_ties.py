"""Adapters of models whose head is their embedding: as peft computes with them, or refused with advice that works."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import convert, merge
from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.errors import AdapterError
from dovetail.io.opening import read_checkpoint
from tests.adapters import as_read, write_adapter

CLOSE = 8 * 2.0**-24
"""Largest difference allowed, in parts of the largest value of the tensor: a few roundings of float32."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other libraries warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def llama(*, tied: bool) -> Any:
    """Make a tiny Llama, the same with its head tied and not tied."""
    import torch
    import transformers

    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=61, tie_word_embeddings=tied, **settings))
    if not tied:
        model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    return model


def gpt2() -> Any:
    """Make a tiny GPT-2, which is tied."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=2, n_embd=24, vocab_size=61, n_positions=16)
    )


def trained(model: Any, folder: Path, settings: dict[str, Any]) -> None:
    """Save a model, and an adapter whose parameters have values as if they had been trained."""
    import peft
    import torch

    model.save_pretrained(folder / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder / "adapter")


def by_peft(model: Any, folder: Path) -> dict[str, NDArray[Any]]:
    """Give what peft makes of a model and an adapter that was saved."""
    import peft

    merged = peft.PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    return {name: each.detach().numpy() for name, each in merged.state_dict().items()}


def check(actual: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """Check that tensors are the same, to a few roundings."""
    for name, each in actual.items():
        assert np.abs(each - expected[name]).max() <= CLOSE * np.abs(expected[name]).max(), name


BOTH = ["q_proj", "embed_tokens", "lm_head"]
DIFFER: dict[str, dict[str, Any]] = {
    "lora of the head": {"target_modules": ["q_proj", "lm_head"]},
    "lora of both": {"target_modules": BOTH},
    "dora of both": {"target_modules": BOTH, "use_dora": True},
    "rslora of the head": {"target_modules": ["lm_head"], "use_rslora": True},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "embedding saved by a longer name": {"target_modules": ["q_proj"], "modules_to_save": ["model.embed_tokens"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding saved, lora of the head": {"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]},
    "head saved, lora of the embedding": {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
    "other tokens of the head": {
        "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 3], "lm_head": [1, 4]}
    },
}  # fmt: skip
ALIKE: dict[str, dict[str, Any]] = {
    "lora of the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora of the head": {"target_modules": ["q_proj", "lm_head"]},
    "lora of both": {"target_modules": BOTH},
    "rslora of both": {"target_modules": BOTH, "use_rslora": True, "lora_alpha": 3},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("kind", DIFFER)
def test_what_makes_the_two_differ(kind: str, tmp_path: Path) -> None:
    """The head becomes a tensor of its own, and all tensors are those that peft computes from an untied model."""
    trained(llama(tied=True), tmp_path, DIFFER[kind])
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, read_adapter(tmp_path / "adapter"))
    assert [*base.tensors, HEAD] == list(applied.tensors)
    actual = as_read(applied.tensors)
    check(actual, by_peft(llama(tied=False), tmp_path))
    assert not np.array_equal(actual[EMBEDDING], actual[HEAD])
    assert applied.adapter is not None
    assert applied.adapter.unties
    (note,) = applied.notes
    assert note.endswith("stores as one matrix: both are stored from now on, the head as 'lm_head.weight'")


@pytest.mark.parametrize("kind", ["lora of the head", "embedding saved", "both saved"])
@pytest.mark.parametrize("says", [True, None])
def test_an_untied_model_computes_as_it_was_trained(kind: str, says: bool | None, tmp_path: Path) -> None:
    """Converted or merged, the output has its own head, is untied at every level, and computes what peft does."""
    import peft
    import torch
    import transformers

    trained(llama(tied=True), tmp_path, DIFFER[kind])
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config.pop("tie_word_embeddings")
    path.write_text(json.dumps(config | ({} if says is None else {"tie_word_embeddings": says})))
    adapted = peft.PeftModel.from_pretrained(llama(tied=True), tmp_path / "adapter")
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        expected = adapted.eval()(tokens).logits.numpy()
    name = f"{tmp_path / 'model'}+{tmp_path / 'adapter'}"
    convert(name, tmp_path / "converted")
    merge({"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 1}}]}, tmp_path / "merged")
    for folder in ("converted", "merged"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["tie_word_embeddings"] is False
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float32)
        with torch.no_grad():
            actual = model.eval()(tokens).logits.numpy()
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max(), folder


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
        ("model.language_model.embed_tokens.weight", "lm_head.weight"),
        ("wte.weight", "lm_head.weight"),
        ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_where_the_head_of_other_models_lies(embedding: str, head: str, tmp_path: Path) -> None:
    """The head lies beside the body, whatever the adapter calls it."""
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_file({embedding: values}, tmp_path / "model" / "model.safetensors")
    parts = {"lm_head.lora_A.weight": np.ones((1, 3), np.float32), "lm_head.lora_B.weight": np.ones((4, 1), np.float32)}
    adapter = write_adapter(tmp_path / "adapter", parts, r=1, lora_alpha=1, task_type="CAUSAL_LM")
    applied = as_read(apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(adapter)).tensors)
    assert [embedding, head] == list(applied)
    assert np.array_equal(values, applied[embedding])
    assert np.array_equal(values + 1, applied[head])


@pytest.mark.parametrize(("embedding", "head"), [("shared.weight", "lm_head"), ("embed.weight", "lm_head.decoder")])
def test_heads_that_are_no_plain_matrices_are_refused(embedding: str, head: str, tmp_path: Path) -> None:
    """T5 scales what enters a tied head, and heads of BERT are more than a matrix: the error says how to untie them."""
    from safetensors.numpy import save_file

    (tmp_path / "model").mkdir()
    save_file({embedding: np.ones((4, 3), np.float32)}, tmp_path / "model" / "model.safetensors")
    parts = {f"{head}.lora_A.weight": np.ones((1, 3), np.float32), f"{head}.lora_B.weight": np.ones((4, 1), np.float32)}
    adapter = write_adapter(tmp_path / "adapter", parts, r=1, lora_alpha=1, task_type="CAUSAL_LM")
    with pytest.raises(AdapterError, match=r"stores one matrix as both.*tie_word_embeddings=False"):
        apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(adapter))


@pytest.mark.parametrize("kind", ALIKE)
def test_ensured_ties(kind: str, tmp_path: Path) -> None:
    """What ensure_weight_tying has trained is applied once, and the model computes what peft's does with the adapter.

    merge_and_unload of peft adds such a LoRA twice, so that what it makes computes something else.
    """
    import peft
    import torch

    trained(llama(tied=True), tmp_path, {**ALIKE[kind], "ensure_weight_tying": True})
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, read_adapter(tmp_path / "adapter"))
    assert list(base.tensors) == list(applied.tensors)
    assert not np.array_equal(as_read(base.tensors)[EMBEDDING], as_read(applied.tensors)[EMBEDDING])
    model, tokens = llama(tied=True), torch.arange(16)[None]
    tensors = {name: torch.tensor(each) for name, each in as_read(applied.tensors).items()}
    assert [HEAD] == model.load_state_dict(tensors, strict=False).missing_keys
    with torch.no_grad():
        actual = model.eval()(tokens).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(llama(tied=True), tmp_path / "adapter")
        expected = adapted.eval()(tokens).logits.numpy()
        without = llama(tied=True).eval()(tokens).logits.numpy()
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(actual - without).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("settings", [[1, 3], {"embed_tokens": [1, 3], "lm_head": [1, 3]}], ids=["one", "both"])
def test_tokens(settings: Any, tmp_path: Path) -> None:
    """Trained tokens change the one matrix, as in peft."""
    trained(llama(tied=True), tmp_path, {"target_modules": ["q_proj"], "trainable_token_indices": settings})
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    check(as_read(applied.tensors), by_peft(llama(tied=True), tmp_path))
    assert () == applied.notes


def test_lora_of_the_embedding_alone(tmp_path: Path) -> None:
    """It changes the one matrix, as merge_and_unload does, and that the head changes with it is said."""
    trained(llama(tied=True), tmp_path, {"target_modules": ["embed_tokens"]})
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    check(as_read(applied.tensors), by_peft(llama(tied=True), tmp_path))
    (note,) = applied.notes
    assert "which is the head as well" in note


def test_other_names(tmp_path: Path) -> None:
    """GPT-2 calls its embedding otherwise, and its checkpoint leaves out the first component of names."""
    trained(gpt2(), tmp_path, {"target_modules": ["lm_head"]})
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    assert "lm_head.weight" == list(applied.tensors)[-1]
    other = tmp_path / "other"
    trained(gpt2(), other, {"target_modules": ["wte"], "ensure_weight_tying": True})
    applied = apply_adapter(read_checkpoint(other / "model"), read_adapter(other / "adapter"))
    assert applied.adapter is not None
    assert 1 == applied.adapter.tensor_count


def test_a_copy_that_is_none(tmp_path: Path) -> None:
    """A head that is said to be tied, but of which one bit differs from the embedding, is not left out."""
    llama(tied=True).save_pretrained(tmp_path / "model")
    values = np.random.default_rng(0).standard_normal((61, 32)).astype(np.float32)
    other = values.copy()
    other[60, 31] = np.nextafter(other[60, 31], np.float32(9))
    base = read_checkpoint(tmp_path / "model")
    settings = {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens", "lm_head"]}
    good = write_adapter(tmp_path / "good", {EMBEDDING: values, HEAD: values}, **settings)
    assert np.array_equal(values, as_read(apply_adapter(base, read_adapter(good)).tensors)[EMBEDDING])
    bad = write_adapter(tmp_path / "bad", {EMBEDDING: values, HEAD: other}, **settings)
    assert np.array_equal(other, as_read(apply_adapter(base, read_adapter(bad)).tensors)[HEAD])
    a, b = values[:4, :].copy(), values[:, :4].copy()
    parts = {
        "model.embed_tokens.lora_embedding_A": b.T, "model.embed_tokens.lora_embedding_B": a.T,
        "lm_head.lora_A.weight": a, "lm_head.lora_B.weight": b,
    }  # fmt: skip
    assert apply_adapter(base, read_adapter(write_adapter(tmp_path / "alike", parts))).adapter is not None
    for name, change in (("scale", {"alpha_pattern": {"lm_head": 1}}), ("factor", {})):
        if name == "factor":
            parts["lm_head.lora_A.weight"] = other[:4, :].copy()
            parts["lm_head.lora_A.weight"][0, 0] += 1
        assert HEAD in apply_adapter(base, read_adapter(write_adapter(tmp_path / name, parts, **change))).tensors


def test_a_model_without_head(tmp_path: Path) -> None:
    """Where there is no head at all, a replaced embedding is no reason to refuse."""
    llama(tied=True).model.save_pretrained(tmp_path / "model")
    values = np.zeros((61, 32), np.float32)
    adapter = write_adapter(tmp_path / "a", {"embed_tokens.weight": values}, modules_to_save=["embed_tokens"])
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(adapter))
    assert np.array_equal(values, as_read(applied.tensors)["embed_tokens.weight"])

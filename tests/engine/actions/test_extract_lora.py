"""Extracted adapters against peft, which loads them, and against numpy's singular value decomposition."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from dovetail.engine.actions.extract_lora import extract_lora
from dovetail.engine.actions.verify import verify
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.io import read_checkpoint
from tests.adapters import as_read

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other libraries warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def llama(**changes: Any) -> Any:
    """Make a tiny Llama."""
    torch.manual_seed(0)
    settings = {**LLAMA, "num_key_value_heads": 2, "vocab_size": 61, "tie_word_embeddings": False, **changes}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))


def gpt2() -> Any:
    """Make a tiny GPT-2, whose weights are stored transposed, whose norms have biases, and whose head is tied."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=24, vocab_size=61, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    """Make a tiny BERT, whose linear modules have biases."""
    torch.manual_seed(0)
    settings = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.BertModel(transformers.BertConfig(vocab_size=61, max_position_embeddings=16, **settings))


def whisper() -> Any:
    """Make a tiny Whisper encoder, which begins with convolutions."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, num_mel_bins=8,
        max_source_positions=12, decoder_layers=1, decoder_attention_heads=2, vocab_size=40, decoder_ffn_dim=24,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.models.whisper.modeling_whisper.WhisperEncoder(config)


def convolutions() -> Any:
    """Make convolutions of one and two dimensions."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.sound = torch.nn.Conv2d(5, 7, (3, 2)), torch.nn.Conv1d(7, 6, 3)

        def forward(self, x: Any) -> Any:
            return (self.sound(self.image(x).flatten(2)),)

    torch.manual_seed(0)
    return Plain()


def inputs(model: Any) -> Any:
    """Give something that a model can be run on."""
    torch.manual_seed(1)
    if isinstance(model, transformers.models.whisper.modeling_whisper.WhisperEncoder):
        return torch.randn(1, 8, 24)
    return torch.arange(12)[None] if hasattr(model, "config") else torch.randn(1, 5, 6, 5)


def outputs(model: Any, given: Any) -> Any:
    """Run a model."""
    model.eval()
    with torch.no_grad():
        return model(given)[0]


def save(model: Any, folder: Path) -> Path:
    """Write a model as a checkpoint."""
    if hasattr(model, "config"):
        model.save_pretrained(folder)
    else:
        folder.mkdir()
        save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def fine_tune(model: Any, changed: Callable[[str], bool], rank: int | None = 3) -> Any:
    """Change parameters: matrices by a product of that rank, or anyhow; vectors anyhow."""
    tuned = copy.deepcopy(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, each in tuned.named_parameters():
            if not changed(name):
                continue
            if each.ndim < 2 or rank is None:
                each.add_(0.1 * torch.randn_like(each))
            else:
                flat = each.view(each.shape[0], -1)
                flat.add_(0.05 * torch.randn(flat.shape[0], rank) @ torch.randn(rank, flat.shape[1]))
    return tuned


@dataclass(frozen=True)
class Case:
    """One kind of fine-tune."""

    id: str
    model: Callable[[], Any]
    changed: Callable[[str], bool]
    saved: list[str] | None = None
    """What modules_to_save must be."""
    targets: set[str] | None = None
    """What target_modules must be."""
    options: Mapping[str, Any] = field(default_factory=dict)


NORMS = ["input_layernorm", "post_attention_layernorm", "model.norm"]
CASES = [
    Case("all", llama, lambda n: "norm" not in n),
    Case("attention", llama, lambda n: "q_proj" in n or "o_proj" in n, None, {"q_proj", "o_proj"}),
    Case("one layer", llama, lambda n: "layers.1.mlp.up" in n, None, {"model.layers.1.mlp.up_proj"}),
    Case("norms", llama, lambda n: "norm" in n or "q_proj" in n, NORMS),
    Case("only a norm", llama, lambda n: n == "model.norm.weight", ["model.norm"]),
    Case("embedding and head", llama, lambda n: "embed" in n or "lm_head" in n, None, {"embed_tokens", "lm_head"}),
    Case(
        "saved head", llama, lambda n: "lm_head" in n or "v_proj" in n, ["lm_head"], {"v_proj"},
        {"modules_to_save": ("lm_head",)},
    ),
    Case("tied", lambda: llama(tie_word_embeddings=True), lambda n: "embed" in n or "k_proj" in n, None, {"k_proj"}),
    Case("biases", lambda: llama(attention_bias=True), lambda n: "q_proj" in n or "0.self_attn.v_proj.bias" in n),
    Case("gpt2", gpt2, lambda n: "wte" not in n, ["ln_1", "ln_2", "ln_f"]),
    Case("gpt2, tied embedding", gpt2, lambda n: True, ["ln_1", "ln_2", "ln_f"]),
    Case("bert", bert, lambda n: "LayerNorm" not in n),
    Case("bert, norms", bert, lambda n: "LayerNorm.weight" in n or "query" in n, ["LayerNorm"]),
    Case("convolutions", convolutions, lambda n: True),
    Case("a name that ends others", whisper, lambda n: n == "layer_norm.weight" or "fc" in n),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_peft_gives_the_fine_tuned_model(case: Case, tmp_path: Path) -> None:
    """Base model and adapter compute what the fine-tuned model does, in peft and merged by it, and here."""
    model = case.model()
    tuned = fine_tune(model, case.changed)
    save(model, tmp_path / "base")
    save(tuned, tmp_path / "tuned")
    options = ExtractionOptions(rank=4, dtype="float32", **case.options)
    extract_lora(tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", options)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert case.saved == config["modules_to_save"]
    if case.targets is not None:
        assert case.targets == set(config["target_modules"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    assert not [w for w in said if "missing adapter" in str(w.message)]
    given = inputs(model)
    expected = outputs(tuned, given)
    torch.testing.assert_close(outputs(adapted.get_base_model(), given), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs(adapted.merge_and_unload(), given), expected, rtol=1e-4, atol=1e-5)
    read = as_read(read_checkpoint(tmp_path / "base", tmp_path / "adapter").tensors)
    for name, value in as_read(read_checkpoint(tmp_path / "tuned").tensors).items():
        np.testing.assert_allclose(read[name], value, rtol=0, atol=3e-6, err_msg=name)
    assert not verify(tmp_path / "adapter").damage


def test_a_grown_vocabulary_in_peft(tmp_path: Path) -> None:
    """After resize_token_embeddings, as the note says, peft makes the fine-tuned model of base model and adapter."""
    model, resized = llama(), llama()
    tuned = fine_tune(model, lambda n: "q_proj" in n)
    tuned.resize_token_embeddings(66)
    resized.resize_token_embeddings(66)
    options = ExtractionOptions(rank=4, dtype="float32")
    extract_lora(save(tuned, tmp_path / "tuned"), save(model, tmp_path / "base"), tmp_path / "out", options)
    adapted = peft.PeftModel.from_pretrained(resized, tmp_path / "out")
    given = torch.tensor([[1, 65, 3, 62]])
    torch.testing.assert_close(outputs(adapted.get_base_model(), given), outputs(tuned, given), rtol=1e-4, atol=1e-5)


def test_full_rank_changes_come_closer_with_the_rank(tmp_path: Path) -> None:
    """Of a change of full rank, a larger adapter gives logits nearer to the fine-tuned model's."""
    model = llama()
    tuned = fine_tune(model, lambda n: "proj" in n, rank=None)
    save(tuned, tmp_path / "tuned")
    save(model, tmp_path / "base")
    given, far = inputs(model), []
    for rank in (2, 16, 32):
        out = tmp_path / str(rank)
        extract_lora(tmp_path / "tuned", tmp_path / "base", out, ExtractionOptions(rank=rank, dtype="float32"))
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), out)
        far.append(float((outputs(adapted.get_base_model(), given) - outputs(tuned, given)).norm()))
    assert far[0] > 1.2 * far[1] > 100 * far[2]

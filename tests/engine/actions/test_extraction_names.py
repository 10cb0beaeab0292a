"""Adapters of models whose tensors have other names in memory than in their files, in peft, which has those."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine.actions.extract_lora import extract_lora
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.io import read_checkpoint
from tests.adapters import as_read

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 2,
}  # fmt: skip
EXPERTS = {**SMALL, "num_experts": 3, "num_local_experts": 3, "moe_intermediate_size": 16}
QWEN_NEXT = {
    **EXPERTS, "head_dim": 8, "shared_expert_intermediate_size": 24, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
EXAONE = {
    **EXPERTS, "num_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "layer_types": ["full_attention"] * 2,
}  # fmt: skip
GRANITE_HYBRID = {
    **EXPERTS, "shared_intermediate_size": 24, "layer_types": ["mamba", "attention"], "mamba_n_heads": 8,
    "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
}  # fmt: skip
ZAMBA2 = {
    **SMALL, "num_hidden_layers": 3, "num_key_value_heads": 4, "layers_block_type": ["mamba", "hybrid", "hybrid"],
    "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8, "adapter_rank": 4,
    "num_mem_blocks": 1,
}  # fmt: skip
OPT = {
    "vocab_size": 61, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 32, "word_embed_proj_dim": 32,
}  # fmt: skip
MAMBA = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "ExaoneMoe": EXAONE,
    "GPTNeoX": SMALL,
    "GraniteMoeHybrid": GRANITE_HYBRID,
    "Mamba": MAMBA,
    "Mixtral": EXPERTS,
    "OPT": OPT,
    "Qwen2Moe": {**EXPERTS, "num_hidden_layers": 1, "shared_expert_intermediate_size": 24},
    "Qwen3Next": QWEN_NEXT,
    "Zamba2": ZAMBA2,
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let the other libraries warn of what they like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(name: str) -> Any:
    """Make a tiny model with a language model's head."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def everything(name: str, expert: int) -> bool:
    """Change all tensors."""
    return True


def fine_tune(model: Any, changed: Callable[[str, int], bool]) -> Any:
    """Change parameters, and what routers add to their scores: every matrix by a product of rank 3, vectors anyhow."""
    tuned = copy.deepcopy(model)
    torch.manual_seed(2)
    biases = [(name, each) for name, each in tuned.named_buffers() if name.endswith("correction_bias")]
    with torch.no_grad():
        for name, each in [*tuned.named_parameters(), *biases]:
            if each.ndim < 2:
                each.add_(0.05 * torch.randn_like(each) * changed(name, 0))
                continue
            experts = each.ndim == 3 and "experts" in name
            for index, part in enumerate(each if experts else [each]):
                flat = part.view(part.shape[0], -1)
                change = 0.05 * torch.randn(flat.shape[0], 3) @ torch.randn(3, flat.shape[1])
                flat.add_(change * changed(name, index))
    return tuned


def logits(model: Any) -> Any:
    """Run a model."""
    with torch.no_grad():
        return model(torch.arange(3, 15)[None]).logits


def extracted(model: Any, tuned: Any, folder: Path, **options: Any) -> dict[str, Any]:
    """Extract the adapter, and give its manifest."""
    model.save_pretrained(folder / "base")
    tuned.save_pretrained(folder / "tuned")
    chosen = ExtractionOptions(**{"rank": 8, "dtype": "float32", **options})
    return extract_lora(folder / "tuned", folder / "base", folder / "adapter", chosen)


def check(model: Any, tuned: Any, folder: Path) -> None:
    """Compare peft, peft's merge, and our reading of the adapter with the fine-tuned model."""
    fresh = type(model).from_pretrained(folder / "base").eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(fresh, folder / "adapter").eval()
    assert not [w for w in said if "missing adapter" in str(w.message)]
    expected = logits(tuned)
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-4, atol=1e-5)
    merged = adapted.merge_and_unload().state_dict()
    for name, value in tuned.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-5, msg=name)
    read = as_read(read_checkpoint(folder / "base", folder / "adapter").tensors)
    for name, value in as_read(read_checkpoint(folder / "tuned").tensors).items():
        np.testing.assert_allclose(read[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_peft_applies_all(name: str, tmp_path: Path) -> None:
    """Base model and adapter are the fine-tuned model, in peft, merged by it, and here, whatever the names."""
    model = make(name)
    tuned = fine_tune(model, everything)
    assert float((logits(tuned) - logits(model)).abs().max()) > 0.01
    notes = extracted(model, tuned, tmp_path)["extraction"]["notes"]
    assert [] == [note for note in notes if "peft" in note and "tied" not in note]
    check(model, tuned, tmp_path)


def test_experts_that_did_not_change(tmp_path: Path) -> None:
    """Where one matrix of one expert changed, peft finds factors for the whole layer, and none for the other layer."""
    model = make("Mixtral")
    tuned = fine_tune(model, lambda name, expert: "layers.1." in name and "down_proj" in name and expert == 2)
    report = extracted(model, tuned, tmp_path, alpha=24.0)["extraction"]
    assert 1 == report["totals"]["factored"]
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    names = [f"model.layers.1.mlp.experts.{each}" for each in ("gate_up_proj", "down_proj")]
    assert names == config["target_parameters"]
    check(model, tuned, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"rank": None, "energy": 0.9}, {"exclude": ("*.experts.1.*",)}, {"modules_to_save": ("*.experts.1.w1",)}],
    ids=lambda each: min(each),
)
def test_experts_that_peft_cannot_take(options: dict[str, Any], tmp_path: Path) -> None:
    """Experts of unequal ranks, or of which some are left out or kept whole, are named in a warning that helps."""
    model = make("Mixtral")
    tuned = fine_tune(model, lambda name, expert: "experts" in name)
    (note,) = extracted(model, tuned, tmp_path, **options)["extraction"]["notes"]
    assert "will not apply" in note
    assert "model.layers.0.block_sparse_moe.experts." in note
    assert f"'{tmp_path / 'base'}+ADAPTER'" in note


def test_models_that_are_not_known(tmp_path: Path) -> None:
    """Where transformers renames tensors of a model in ways that are not known here, a warning says so."""
    model = make("OPT")
    tuned = fine_tune(model, everything)
    for folder, each in (("base", model), ("tuned", tuned)):
        each.save_pretrained(tmp_path / folder)
        path = tmp_path / folder / "config.json"
        path.write_text(path.read_text().replace('"opt"', '"nemotron_h"'))
    options = ExtractionOptions(rank=8, dtype="float32")
    notes = extract_lora(tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", options)["extraction"]["notes"]
    assert 1 == len([note for note in notes if "other names in memory" in note and "nemotron_h" in note])

"""Many architectures, made tiny by transformers: what is merged has the same names, and computes what it should."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from dovetail.engine import merge
from tests.checkpoints import read_output, write_recipe

pytestmark = pytest.mark.slow

LAYERS: Final = 4
PICKS: Final = (0, 1, 2, 2, 3)
"""The layers of the longer model."""
COMMON: Final = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS: Final = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
LATENT: Final = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
MAMBA: Final = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4}
GPT: Final = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4}
ZOO: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": {}, "gemma3_text": {}, "phi": {},
    "phi3": {}, "gpt2": GPT, "gptj": {**GPT, "rotary_dim": 4}, "gpt_neox": {}, "bloom": GPT, "starcoder2": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": LAYERS}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo2": {}, "cohere2": {}, "granite": {}, "stablelm": {}, "smollm3": {}, "exaone4": {}, "glm4": {},
    "mixtral": EXPERTS, "qwen2_moe": {**EXPERTS, "mlp_only_layers": [0]}, "qwen3_moe": EXPERTS, "gpt_oss": EXPERTS,
    "glm4_moe": {**EXPERTS, "first_k_dense_replace": 1}, "deepseek_v2": {**EXPERTS, **LATENT},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": {
        **EXPERTS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "mamba": {"state_size": 4}, "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {
        **EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 16,
    },
    "nemotron_h": {
        **EXPERTS, "hybrid_override_pattern": "M*-M", "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 4,
        "n_groups": 1,
    },
}  # fmt: skip
"""Model types, with what their configurations need besides `COMMON` to be tiny."""


TOKENS: Final = range(3, 13)
"""What the models are asked."""


def make(name: str, folder: Path) -> tuple[Any, Any]:
    """Save a model of random weights and another of the same configuration; give both."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **{**COMMON, **ZOO[name]})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder / "a")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    other.save_pretrained(folder / "b")
    return model, other


def answer(model: Any) -> Any:
    """Give a model's logits."""
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([list(TOKENS)]), use_cache=False).logits


def logits_of(folder: Path) -> Any:
    """Load a model, to the last tensor, and give its logits."""
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert [] == [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key]]
    return answer(model)


def average(model: Any, other: Any) -> Any:
    """Average two models in memory."""
    mean, theirs = copy.deepcopy(model), other.state_dict()
    floats = {name: tensor for name, tensor in mean.state_dict().items() if tensor.is_floating_point()}
    # All at once, as tied tensors have two names.
    mean.load_state_dict({name: (tensor + theirs[name]) / 2 for name, tensor in floats.items()}, strict=False)
    return mean


def stacked(model: Any, picks: Sequence[int]) -> Any:
    """Put a model's layers in another order in memory, and what its configuration lists of each of them."""
    import torch

    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == LAYERS and name.count(".") < 3
    ]
    ((name, layers),) = found
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.ModuleList([layers[number] for number in picks]))
    model.config.num_hidden_layers = len(picks)
    for key, value in list(vars(model.config).items()):
        if isinstance(value, list) and len(value) == LAYERS:
            setattr(model.config, key, [value[number] for number in picks])
    return model


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo(name: str, tmp_path: Path) -> None:
    """An average has the models' names and their average's logits; layers stacked in another order have the logits of
    the same layers stacked in memory.
    """
    import torch

    a, b = tmp_path / "a", tmp_path / "b"
    model, other = make(name, tmp_path)
    models = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in (a, b)]
    merge(write_recipe(tmp_path / "mean.yml", merge_method="linear", models=models), tmp_path / "mean")
    first, second, merged = (read_output(folder) for folder in (a, b, tmp_path / "mean"))
    assert sorted(first) == sorted(merged)
    for key, tensor in merged.items():
        assert np.allclose((first[key] + second[key]) / 2, tensor, rtol=1e-5, atol=1e-7), key
    assert torch.allclose(answer(average(model, other)), logits_of(tmp_path / "mean"), atol=1e-5)

    slices = [{"sources": [{"model": str(a), "layer_range": list(item)}]} for item in ((0, 3), (2, LAYERS))]
    merge(write_recipe(tmp_path / "long.yml", merge_method="passthrough", slices=slices), tmp_path / "long")
    assert torch.allclose(answer(stacked(model, PICKS)), logits_of(tmp_path / "long"), atol=1e-5)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (a, tmp_path / "long"))
    for key, value in old.items():
        if isinstance(value, list) and len(value) == LAYERS:
            assert [value[number] for number in PICKS] == new[key]

"""Tiny models of the families that public recipes merge: names and shapes of tensors, and configurations."""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]

HIDDEN, INNER, HEAD = 8, 12, 4
"""Widths of a layer, of what lies between its matrices, and of one head of two."""
POSITIONS = 16
"""Rows of the tables of positions, in families that have one."""
EXPERTS = 2
"""Experts of a mixture."""

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
}
"""Transformers' class for each family, by its ``model_type``."""

EMBEDDINGS = {"gpt2": "transformer.wte.weight", "bert": "embeddings.word_embeddings.weight"}
"""Names of embeddings that are not ``model.embed_tokens.weight``."""


def shapes_of(family: str, layers: int, rows: int) -> Shapes:
    """Give the shape of every tensor of a model with so many layers and rows of embeddings."""
    if family == "gpt2":
        return _gpt2(layers, rows)
    if family == "bert":
        return _bert(layers, rows)
    made: Shapes = {"model.embed_tokens.weight": (rows, HIDDEN)}
    for number in range(layers):
        made |= {f"model.layers.{number}.{name}": shape for name, shape in _LAYERS[family]().items()}
    norm = "final_layernorm" if family == "phi" else "norm"
    made[f"model.{norm}.weight"] = (HIDDEN,)
    if family != "gemma2":  # its head is tied to the embedding
        made["lm_head.weight"] = (rows, HIDDEN)
    if family == "phi":
        made |= {"model.final_layernorm.bias": (HIDDEN,), "lm_head.bias": (rows,)}
    return made


def _attention() -> Shapes:
    return {f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}


def _norms(*names: str) -> Shapes:
    return {f"{name}layernorm.weight": (HIDDEN,) for name in names}


def _mlp() -> Shapes:
    return {
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
    }


def _llama() -> Shapes:
    return _attention() | _mlp() | _norms("input_", "post_attention_")


def _mixtral() -> Shapes:
    experts: Shapes = {
        "mlp.experts.gate_up_proj": (EXPERTS, 2 * INNER, HIDDEN),
        "mlp.experts.down_proj": (EXPERTS, HIDDEN, INNER),
        "mlp.gate.weight": (EXPERTS, HIDDEN),
    }
    return _attention() | experts | _norms("input_", "post_attention_")


def _qwen2() -> Shapes:
    return _llama() | {f"self_attn.{name}_proj.bias": (HIDDEN,) for name in "qkv"}


def _qwen3() -> Shapes:
    return _llama() | {f"self_attn.{name}_norm.weight": (HEAD,) for name in "qk"}


def _gemma2() -> Shapes:
    return _llama() | _norms("pre_feedforward_", "post_feedforward_")


def _phi() -> Shapes:
    names = [*(f"self_attn.{name}_proj" for name in "qkv"), "self_attn.dense"]
    made: Shapes = {f"{name}.weight": (HIDDEN, HIDDEN) for name in names} | {
        f"{name}.bias": (HIDDEN,) for name in names
    }
    made |= {"mlp.fc1.weight": (INNER, HIDDEN), "mlp.fc1.bias": (INNER,)}
    made |= {"mlp.fc2.weight": (HIDDEN, INNER), "mlp.fc2.bias": (HIDDEN,)}
    return made | {f"input_layernorm.{part}": (HIDDEN,) for part in ("weight", "bias")}


def _phi3() -> Shapes:
    fused: Shapes = {
        "self_attn.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_up_proj.weight": (2 * INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
    }
    return fused | _norms("input_", "post_attention_")


_LAYERS = {
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "phi": _phi,
    "phi3": _phi3,
}


def _gpt2(layers: int, rows: int) -> Shapes:
    made: Shapes = {EMBEDDINGS["gpt2"]: (rows, HIDDEN), "transformer.wpe.weight": (POSITIONS, HIDDEN)}
    for number in range(layers):
        for name, shape in {
            "attn.c_attn": (HIDDEN, 3 * HIDDEN),
            "attn.c_proj": (HIDDEN, HIDDEN),
            "mlp.c_fc": (HIDDEN, 4 * HIDDEN),
            "mlp.c_proj": (4 * HIDDEN, HIDDEN),
        }.items():
            made |= {f"transformer.h.{number}.{name}.weight": shape, f"transformer.h.{number}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2"):
            made |= {f"transformer.h.{number}.{name}.{part}": (HIDDEN,) for part in ("weight", "bias")}
    return made | {f"transformer.ln_f.{part}": (HIDDEN,) for part in ("weight", "bias")}


def _bert(layers: int, rows: int) -> Shapes:
    made: Shapes = {
        EMBEDDINGS["bert"]: (rows, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "pooler.dense.weight": (HIDDEN, HIDDEN),
        "pooler.dense.bias": (HIDDEN,),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, shape in {
            "attention.self.query": (HIDDEN, HIDDEN),
            "attention.self.key": (HIDDEN, HIDDEN),
            "attention.self.value": (HIDDEN, HIDDEN),
            "attention.output.dense": (HIDDEN, HIDDEN),
            "intermediate.dense": (INNER, HIDDEN),
            "output.dense": (HIDDEN, INNER),
        }.items():
            made |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    return made | {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}


def config_of(family: str, layers: int, rows: int) -> dict[str, Any]:
    """Give the configuration of a model, as its ``config.json`` has it."""
    made: dict[str, Any] = {"architectures": [CLASSES[family]], "model_type": family, "vocab_size": rows}
    if family == "gpt2":
        made |= {"n_embd": HIDDEN, "n_head": 2, "n_layer": layers, "n_positions": POSITIONS}
    else:
        made |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers}
        made |= {"num_attention_heads": 2, "max_position_embeddings": POSITIONS}
    if family in ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2"):
        made |= {"num_key_value_heads": 2}
    if family in ("qwen3", "gemma2"):
        made |= {"head_dim": HEAD}
    if family == "mixtral":
        made |= {"num_local_experts": EXPERTS}
    if family == "qwen2":
        made |= {"max_window_layers": layers}
    if family != "bert":
        made |= {"tie_word_embeddings": family in ("gemma2", "gpt2"), "bos_token_id": 1, "eos_token_id": 2}
    return made | {"pad_token_id": 0, "torch_dtype": "float32"}

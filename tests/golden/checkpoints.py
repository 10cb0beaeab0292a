"""Small checkpoints of several architectures, for comparisons with mergekit: odd sizes, three axes, exact zeros."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN = 11

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, NDArray[Any]]


def llama(layers: int = 4) -> Shapes:
    """Shapes of a tiny Llama with odd sizes."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (23, HIDDEN)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (5, HIDDEN) for name in "kv"}
        shapes[f"{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (14, HIDDEN) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, 14)
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (23, HIDDEN)}


def gpt2(layers: int = 2) -> Shapes:
    """Shapes of a tiny GPT-2: biases, and no head of its own."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (19, HIDDEN), "transformer.wpe.weight": (8, HIDDEN)}
    for i in range(layers):
        for name, width in (("attn.c_attn", 3 * HIDDEN), ("attn.c_proj", HIDDEN), ("mlp.c_fc", 15)):
            shapes[f"transformer.h.{i}.{name}.weight"] = (HIDDEN, width)
            shapes[f"transformer.h.{i}.{name}.bias"] = (width,)
        shapes[f"transformer.h.{i}.mlp.c_proj.weight"] = (15, HIDDEN)
        shapes[f"transformer.h.{i}.mlp.c_proj.bias"] = (HIDDEN,)
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{i}.{norm}.{part}": (HIDDEN,) for part in ("weight", "bias")}
    return shapes | {f"transformer.ln_f.{part}": (HIDDEN,) for part in ("weight", "bias")}


def mamba(layers: int = 2) -> Shapes:
    """Shapes of a tiny Mamba: a convolution with three axes."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (17, HIDDEN)}
    for i in range(layers):
        mixer = f"backbone.layers.{i}.mixer"
        shapes |= {
            f"{mixer}.in_proj.weight": (22, HIDDEN),
            f"{mixer}.conv1d.weight": (11, 1, 4),
            f"{mixer}.conv1d.bias": (11,),
            f"{mixer}.x_proj.weight": (9, 11),
            f"{mixer}.dt_proj.weight": (11, 3),
            f"{mixer}.dt_proj.bias": (11,),
            f"{mixer}.A_log": (11, 3),
            f"{mixer}.D": (11,),
            f"{mixer}.out_proj.weight": (HIDDEN, 11),
            f"backbone.layers.{i}.norm.weight": (HIDDEN,),
        }
    return shapes | {"backbone.norm_f.weight": (HIDDEN,)}


ARCHITECTURES = {"llama": llama, "gpt2": gpt2, "mamba": mamba}


def config(architecture: str, layers: int) -> dict[str, Any]:
    """Give what mergekit reads of a ``config.json``."""
    name = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "mamba": "MambaForCausalLM"}[architecture]
    key = "n_layer" if architecture == "gpt2" else "num_hidden_layers"
    return {"model_type": architecture, "architectures": [name], key: layers}


def make_tensors(
    shapes: Shapes, seed: int, size: float = 0, base: Tensors | None = None, dtype: str = "float32"
) -> Tensors:
    """Make a base model, or a fine-tune with changes of a standard deviation `size`, a fifth of them exactly zero."""
    random = np.random.default_rng(seed)
    stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors: Tensors = {}
    for name, shape in shapes.items():
        if base is None:
            tensors[name] = (random.standard_normal(shape) * 0.3).astype(stored)
        else:
            change = random.standard_normal(shape) * size * (random.random(shape) < 0.8)
            tensors[name] = (base[name].astype(np.float64) + change).astype(stored)
    return tensors


def write(folder: Path, architecture: str, layers: int, tensors: Tensors) -> None:
    """Write a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(architecture, layers)) + "\n")


CHECKPOINTS: dict[str, tuple[int, float, str]] = {
    "llama-base": (1, 0, "float32"),
    "llama-a": (2, 0.02, "float32"),
    "llama-b": (3, 0.03, "float32"),
    "llama-c": (4, 0.02, "float32"),
    "llama-near": (5, 0.0002, "float32"),
    "llama-nearer": (7, 0.0001, "float32"),
    "llama-far": (6, 0.5, "float32"),
    "gpt2-base": (11, 0, "float32"),
    "gpt2-a": (12, 0.02, "float32"),
    "gpt2-b": (13, 0.03, "float32"),
    "mamba-base": (21, 0, "bfloat16"),
    "mamba-a": (22, 0.05, "bfloat16"),
    "mamba-b": (23, 0.05, "float16"),
}
"""By name: seed, size of the changes against the family's base, stored dtype."""


def make_inputs(folder: Path) -> None:
    """Write every checkpoint."""
    base: Tensors = {}
    for name, (seed, size, dtype) in CHECKPOINTS.items():
        architecture = name.split("-")[0]
        layers = 4 if architecture == "llama" else 2
        tensors = make_tensors(ARCHITECTURES[architecture](layers), seed, size, base if size else None, dtype)
        base = base if size else tensors
        write(folder / name, architecture, layers, tensors)

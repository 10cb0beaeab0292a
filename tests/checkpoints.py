"""Small checkpoints and recipes for tests, written with the official safetensors library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import deserialize
from safetensors.numpy import save_file

Tensors = Mapping[str, NDArray[Any]]

BF16 = np.dtype(ml_dtypes.bfloat16)

_STORED: dict[str, Any] = {
    "BOOL": np.bool_,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I32": np.int32,
    "I64": np.int64,
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": BF16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}  # of which the official library's own reader for numpy lacks some


def llama_tensors(
    seed: int, base: Tensors | None = None, dtype: np.dtype[Any] = BF16, layers: int = 2
) -> dict[str, NDArray[Any]]:
    """Make the tensors of a tiny Llama, or of a fine-tune of `base` with heavy-tailed changes and exact zeros."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (97, 64)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.self_attn.q_proj.weight"] = (64, 64)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (130, 64)
        shapes[f"{prefix}.input_layernorm.weight"] = (64,)
    shapes |= {"model.norm.weight": (64,), "lm_head.weight": (97, 64)}
    if base is None:
        return {name: (random.standard_normal(shape) * 0.02).astype(dtype) for name, shape in shapes.items()}
    changed = {}
    for name, shape in shapes.items():
        change = random.standard_t(3, shape) * 1e-3 * (random.random(shape) < 0.7)
        changed[name] = (base[name].astype(np.float64) + change).astype(base[name].dtype)
    return changed


def write_checkpoint(
    folder: Path, tensors: Tensors, *, shards: int = 1, config: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint in the Hugging Face layout."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
    else:
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = {name: tensors[name] for name in names[number::shards]}
            save_file(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
        )
    settings = {"model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": 2, **(config or {})}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_recipe(path: Path, **content: Any) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def cabs_recipe(path: Path, base: Path, models: Sequence[Path], /, **changes: Any) -> Path:
    """Write a CABS recipe: 4 of 16, weight 0.8, unless changed."""
    content: dict[str, Any] = {
        "merge_method": "cabs",
        "base_model": str(base),
        "models": [{"model": str(model)} for model in models],
        "parameters": {"n": 4, "m": 16, "weight": 0.8},
        "dtype": "bfloat16",
    }
    return write_recipe(path, **(content | changes))


def read_output(folder: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a checkpoint folder with the official library."""
    return {
        name: np.frombuffer(bytes(fields["data"]), _STORED[fields["dtype"]]).reshape(fields["shape"])
        for file in sorted(folder.glob("*.safetensors"))
        for name, fields in deserialize(file.read_bytes())
    }


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

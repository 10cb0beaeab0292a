"""Write the checkpoints of `bounds.py`: a base model and fine-tunes of one kind and one shape.

    python bench/bounds_models.py FOLDER --kind bf16 --shape usual --models 3 --layers 8

Every model is a few thousand random numbers, again and again: what they are does not matter to the memory, and such
files compress and decompress fast. All kinds but the quantised ones hold the same numbers as ``bf16``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from bounds_cases import KINDS, SHAPES
from workplace import ZARR_KINDS
from zarr_family import store

HIDDEN, INNER, VOCABULARY, SMALL = 1024, 4096, 12_000, 60
POOL = 12_345

Shapes = dict[str, tuple[int, ...]]


def shapes_of(shape: str, layers: int) -> Shapes:
    """Give the shape of every tensor: 25 MB in bfloat16, and 25 MB for each layer."""
    if shape == "rows":
        found: Shapes = {}
        for layer in range(layers + 1):
            home = f"model.layers.{layer}"
            found |= {f"{home}.a.weight": (2, 2_097_152), f"{home}.b.weight": (5, 1_500_000)}
        return found
    found = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    found |= {f"model.extra.{index}.weight": (64,) for index in range(SMALL)}
    for layer in range(layers):
        home = f"model.layers.{layer}"
        found |= {f"{home}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found |= {f"{home}.mlp.down_proj.weight": (HIDDEN, INNER), f"{home}.input_layernorm.weight": (HIDDEN,)}
    return found


def values(model: int, dtype: Any) -> Any:
    """Give the numbers of which a model consists: the base model's, and small changes of half of them."""
    base = np.random.default_rng(0).standard_normal(POOL, np.float32) * np.float32(0.02)
    if model:
        chance = np.random.default_rng(model)
        base += chance.standard_normal(POOL, np.float32) * np.float32(1e-3) * chance.integers(0, 2, POOL)
    return base.astype(ml_dtypes.bfloat16).astype(dtype)


def write_file(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], Any]]) -> None:
    """Write a safetensors file: for each tensor its dtype, its shape and the values that it repeats."""
    header, end = {}, 0
    for name, (dtype, shape, pool) in tensors.items():
        begin, end = end, end + int(np.prod(shape)) * pool.itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(_head(text))
        for _, shape, pool in tensors.values():
            left = int(np.prod(shape))
            block = np.tile(pool, 64)
            while left > 0:
                file.write(block[:left].tobytes())
                left -= block.size


def _head(text: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_sharded(folder: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], Any]], parts: int = 3) -> None:
    """Write shards of about as many tensors each, and their index."""
    names, weight_map = list(tensors), {}
    for part in range(parts):
        chosen = names[part::parts]
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in chosen})
        weight_map |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_plain(folder: Path, model: int, shapes: Shapes, dtype: str) -> None:
    kinds = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}
    pool = values(model, kinds[dtype])
    write_sharded(folder, {name: (dtype, shape, pool) for name, shape in shapes.items()})


def write_torch(folder: Path, model: int, shapes: Shapes) -> None:
    """Write PyTorch files of a few tensors each."""
    import torch

    pool = torch.from_numpy(values(model, np.float32)).to(torch.bfloat16)
    names, weight_map = list(shapes), {}
    for part in range(3):
        chosen = names[part::3]
        made = {}
        for name in chosen:
            count = int(np.prod(shapes[name]))
            made[name] = pool.repeat(-(-count // POOL))[:count].reshape(shapes[name]).clone()
        file = f"pytorch_model-{part + 1:05}-of-00003.bin"
        torch.save(made, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_fp8(folder: Path, model: int, shapes: Shapes) -> dict[str, Any]:
    """Write float8 codes with a scale for every 128 x 128 of them, as DeepSeek-V3 has; give what config.json says."""
    codes = np.random.default_rng(model).integers(0, 120, POOL).astype(np.uint8)
    scale, plain = np.full(1, 1e-4, np.float32), values(model, ml_dtypes.bfloat16)
    tensors: dict[str, tuple[str, tuple[int, ...], Any]] = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            tensors[name] = ("BF16", shape, plain)
            continue
        tensors[name] = ("F8_E4M3", shape, codes)
        tensors[f"{name}_scale_inv"] = ("F32", tuple(-(-size // 128) for size in shape), scale)
    write_sharded(folder, tensors)
    return {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


def write_adapter(folder: Path, model: int, shapes: Shapes, rank: int = 32) -> None:
    """Write a LoRA, or for every other model a DoRA, of every matrix of a layer."""
    pool = values(model, np.float32)
    tensors: dict[str, tuple[str, tuple[int, ...], Any]] = {}
    for name, shape in shapes.items():
        if name.endswith("_proj.weight"):
            module = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = ("F32", (rank, shape[1]), pool)
            tensors[f"{module}.lora_B.weight"] = ("F32", (shape[0], rank), pool)
            if model % 2:
                tensors[f"{module}.lora_magnitude_vector"] = ("F32", shape[:1], np.ones(1, np.float32))
    write_file(folder / "adapter_model.safetensors", tensors)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "use_dora": bool(model % 2)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def write_experts(folder: Path, layout: str, experts: int = 8, inner: int = 2048, layers: int = 2) -> Path:
    """Write a model of experts: ``fused`` by rows, one by one (``split``), by ``columns``, or by columns in MXFP4."""
    folder.mkdir(parents=True)
    pool = values(len(layout), ml_dtypes.bfloat16)
    codes = np.random.default_rng(len(layout)).integers(0, 256, POOL).astype(np.uint8)
    tensors: dict[str, tuple[str, tuple[int, ...], Any]] = {}
    for layer in range(layers):
        home = f"model.layers.{layer}.mlp"
        tensors[f"{home}.gate.weight"] = ("BF16", (experts, HIDDEN), pool)
        for name, (rows, columns) in {"gate_up_proj": (2 * inner, HIDDEN), "down_proj": (HIDDEN, inner)}.items():
            if layout.startswith("mxfp4"):
                groups = (experts, rows, columns // 32)
                tensors[f"{home}.experts.{name}_blocks"] = ("U8", (*groups, 16), codes)
                tensors[f"{home}.experts.{name}_scales"] = ("U8", groups, np.full(1, 120, np.uint8))
            elif layout != "split":
                shape = (rows, columns) if layout == "fused" else (columns, rows)
                tensors[f"{home}.experts.{name}"] = ("BF16", (experts, *shape), pool)
            else:
                for part in ("gate_proj", "up_proj") if name == "gate_up_proj" else (name,):
                    shape = (inner, HIDDEN) if name == "gate_up_proj" else (HIDDEN, inner)
                    for expert in range(experts):
                        tensors[f"{home}.experts.{expert}.{part}.weight"] = ("BF16", shape, pool)
    write_sharded(folder, tensors)
    config: dict[str, Any] = {"model_type": "qwen3_vl_moe" if layout == "columns" else "qwen3_moe"}
    if layout.startswith("mxfp4"):
        config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", **config}))
    return folder


def write_model(folder: Path, kind: str, model: int, shapes: Shapes) -> Path:
    """Write one model; give its folder."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"model_type": "llama", "torch_dtype": "bfloat16"}
    if kind == "torch":
        write_torch(folder, model, shapes)
    elif kind == "fp8":
        config |= write_fp8(folder, model, shapes)
    elif kind == "lora" and model:
        write_adapter(folder, model, shapes)
    else:
        write_plain(folder, model, shapes, "F32" if kind == "f32" else "BF16")
    (folder / "config.json").write_text(json.dumps(config))
    if kind in ZARR_KINDS:
        made = store(folder, kind)
        shutil.rmtree(folder)
        return made
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="bf16")
    parser.add_argument("--shape", choices=SHAPES, default="usual")
    parser.add_argument("--models", type=int, default=3, help="fine-tunes")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--experts", help="layout of experts, instead of all other options")
    args = parser.parse_args()
    if args.experts:
        print(write_experts(args.folder, args.experts))
        return
    shapes = shapes_of(args.shape, args.layers)
    for model in range(args.models + 1):
        print(write_model(args.folder / (f"tune{model}" if model else "base"), args.kind, model, shapes))


if __name__ == "__main__":
    main()

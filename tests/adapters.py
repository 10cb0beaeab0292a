"""Small adapters for tests, in the layout of peft but without it, and their effect computed in plain numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.checkpoints import Tensors

PREFIX = "base_model.model."


def write_adapter(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    """Write an adapter: its tensors, by names without peft's prefix, and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {PREFIX + name: np.ascontiguousarray(each) for name, each in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lora_tensors(
    seed: int, base: Tensors, modules: Sequence[str], rank: int = 4, dtype: Any = np.float32
) -> dict[str, NDArray[Any]]:
    """Make two factors for each module, with a product about as large as a fine-tune's change."""
    random = np.random.default_rng(seed)
    made = {}
    for module in modules:
        rows, columns = base[f"{module}.weight"].shape
        made[f"{module}.lora_A.weight"] = (random.standard_normal((rank, columns)) * 0.05).astype(dtype)
        made[f"{module}.lora_B.weight"] = (random.standard_normal((rows, rank)) * 0.02).astype(dtype)
    return made


def merged(base: Tensors, adapter: Tensors, scale: float = 2.0) -> dict[str, NDArray[np.float32]]:
    """Compute the float32 tensors of a model with a LoRA applied, with each sum in the documented order."""
    result = {name: each.astype(np.float32) for name, each in base.items()}
    for name, down in adapter.items():
        module, marker, _ = name.partition(".lora_A.")
        if marker:
            up = adapter[f"{module}.lora_B.weight"].astype(np.float32)
            result[f"{module}.weight"] = plain_sum(result[f"{module}.weight"], up, down.astype(np.float32), scale)
    return result


def plain_sum(
    weight: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Compute ``weight + scale * (left @ right)``, one term of the product after another."""
    total = np.zeros(weight.shape, np.float32)
    for k in range(left.shape[1]):
        total = total + left[:, k : k + 1] * right[k]
    return weight + np.float32(scale) * total


def as_read(tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Read all tensors of a checkpoint; those that an adapter changes are float32."""
    from dovetail.io.dtypes import to_numpy

    return {
        name: info.source.read(0, info.length).view(to_numpy(info.dtype)).reshape(info.shape)
        for name, info in tensors.items()
    }

"""Configurations and headers of adapters, which are applied to a model and read where they fit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dovetail.io import read_checkpoint
from tests.attacks.adapters import CONFIG, MODEL, WEIGHTS, Q, lora
from tests.fuzz import Target
from tests.fuzz_targets.documents import claimed_bytes, dumped

SETTINGS = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "k"], "modules_to_save": ["norm"],
    "rank_pattern": {"layers.0.q": 2}, "alpha_pattern": {".*q": 8, "k": 4}, "use_rslora": False, "use_dora": False,
    "fan_in_fan_out": False, "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base", "bias": "none",
    "trainable_token_indices": {"embed": [1, 2]}, "init_lora_weights": True, "auto_mapping": None,
}  # fmt: skip
OTHERS = (
    SETTINGS | {"peft_type": "ADALORA", "init_r": 2, "rank_pattern": {"base_model.model.q.lora_E": [True, False]}},
    {"peft_type": "LOHA", "r": 2, "alpha": 2, "use_effective_conv2d": False},
    {"peft_type": "LOKR", "r": 2, "alpha": 2, "decompose_both": True, "decompose_factor": -1},
    {"peft_type": "IA3", "feedforward_modules": ["q"], "target_modules": ["q"]},
    {"peft_type": "TRAINABLE_TOKENS", "token_indices": [0, 3]},
    SETTINGS | {"target_parameters": ["layers.0.square.weight"], "trainable_token_indices": None},
)
_MOST_READ = 64


def _write(home: Path) -> tuple[Path, Path]:
    """Write a model, and an adapter of it that is good."""
    tensors = {name: np.zeros(shape, np.int32 if "ids" in name else np.float32) for name, shape in MODEL.items()}
    model, adapter = home / "model.safetensors", home / "adapter"
    adapter.mkdir()
    save_file(tensors, model)
    save_file({f"base_model.model.{name}": each for name, each in lora().items()}, adapter / WEIGHTS)
    (adapter / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return model, adapter


def _read(model: Path, adapter: Path) -> None:
    for info in read_checkpoint(model, adapter).tensors.values():
        info.source.read(0, min(info.length, _MOST_READ))


def config_target(home: Path) -> Target:
    """Configurations beside good tensors."""
    model, adapter = _write(home)

    def use(data: bytes, chance: random.Random) -> None:
        (adapter / CONFIG).write_bytes(data)
        _read(model, adapter)

    return Target("adapter config", dumped({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, SETTINGS, *OTHERS), use)


def header_target(home: Path) -> Target:
    """Headers of the tensors of adapters of every kind; all numbers are zero."""
    model, adapter = _write(home)
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    kinds = {b"magnitude": plain | {"use_dora": True}, b"hada": OTHERS[1], b"lokr": OTHERS[2], b"ia3": OTHERS[3],
             b"trainable": OTHERS[4], b"lora_E": OTHERS[0], b"": plain}  # fmt: skip
    parts = {
        "lora": {"lora_A.weight": [2, 4], "lora_B.weight": [6, 2]},
        "dora": {"lora_A.weight": [2, 4], "lora_B.weight": [6, 2], "lora_magnitude_vector.weight": [6]},
        "loha": {"hada_w1_a": [6, 2], "hada_w1_b": [2, 4], "hada_w2_a": [6, 2], "hada_w2_b": [2, 4]},
        "lokr": {"lokr_w1": [2, 2], "lokr_w2_a": [3, 2], "lokr_w2_b": [2, 2]},
        "ia3": {"ia3_l": [6, 1]},
        "adalora": {"lora_A": [2, 4], "lora_B": [6, 2], "lora_E": [2, 1]},
        "tokens": {"trainable_tokens_delta": [2, 4]},
        "whole": {"weight": [6, 4], "bias": [6]},
    }
    seeds = []
    for name, shapes in parts.items():
        module = "model.embed" if name == "tokens" else Q
        document, begin = {}, 0
        for part, shape in shapes.items():
            size = 4 * int(np.prod(shape))
            fields = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + size]}
            document[f"base_model.model.{module}.{part}"] = fields
            begin += size
        seeds.append(document)

    def use(body: bytes, chance: random.Random) -> None:
        fitting = next(settings for mark, settings in kinds.items() if mark in body)
        said = fitting if chance.random() < 0.9 else chance.choice((*kinds.values(), *OTHERS))
        (adapter / CONFIG).write_text(json.dumps(said))
        (adapter / WEIGHTS).write_bytes(len(body).to_bytes(8, "little") + body + bytes(claimed_bytes(body)))
        _read(model, adapter)

    return Target("adapter header", dumped(*seeds), use)

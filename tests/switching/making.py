"""Writing the tiny models that the recipes of the corpus name, with tokenizers and adapters."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.adapters import lora_tensors, write_adapter
from tests.switching.corpus import EXTRA, TOKENS, Entry
from tests.switching.families import config_of, shapes_of

SPECIAL = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
"""The first tokens of every vocabulary; the others are words. Qwen's tokenizers add the fourth if it is missing."""
OWN_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
"""The chat template of ``model-a``."""
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}{% endfor %}"
"""The chat template of all other models."""


def template_of(model: str) -> str:
    """Give the chat template of a model."""
    return OWN_TEMPLATE if model == "model-a" else TEMPLATE


def make_models(entry: Entry, root: Path) -> Path:
    """Write the models of a recipe, but for those that are there already; give the folder that they lie in."""
    place = root / entry.place
    place.mkdir(parents=True, exist_ok=True)
    for name in entry.models:
        if not (place / name).exists():
            if name.startswith("adapter"):
                make_adapter(place / name, entry)
            else:
                make_model(place / name, entry)
    return place


def tensors_of(entry: Entry, model: str) -> dict[str, NDArray[np.float32]]:
    """Make the tensors of a model: those of one common origin, and changes of its own."""
    shapes = shapes_of(entry.family, entry.layers, entry.rows(model))
    origin, own = (np.random.default_rng(zlib.crc32(name.encode())) for name in (entry.family, model))
    made = {}
    for name, shape in shapes.items():
        rows = (TOKENS, *shape[1:]) if shape[0] == entry.rows(model) else shape
        common = np.resize(origin.standard_normal(rows) * 0.3, shape)
        changes = own.standard_normal(shape) * 0.05 * (own.random(shape) < 0.9)
        made[name] = (common + changes).astype(np.float32)
    return made


def make_model(folder: Path, entry: Entry) -> None:
    """Write one model: weights, configuration and tokenizer."""
    rows = entry.rows(folder.name)
    folder.mkdir(parents=True)
    save_file(tensors_of(entry, folder.name), folder / "model.safetensors", metadata={"format": "pt"})
    tokens = [*SPECIAL, *(f"tok{number}" for number in range(len(SPECIAL), TOKENS)), *EXTRA][:rows]
    added = [
        {"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for number, token in enumerate(tokens)
        if token in SPECIAL or token in EXTRA
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "unk_token": "<unk>",
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": template_of(folder.name),
    }
    write_json(folder / "config.json", config_of(entry.family, entry.layers, rows))
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True})


def make_adapter(folder: Path, entry: Entry) -> None:
    """Write an adapter of two matrices in every layer."""
    base = tensors_of(entry, "model-a")
    modules = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(entry.layers) for name in "qv"]
    tensors = lora_tensors(zlib.crc32(folder.name.encode()), base, modules, rank=2)
    write_adapter(
        folder, tensors, r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        base_model_name_or_path="model-a",
    )  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value) + "\n")

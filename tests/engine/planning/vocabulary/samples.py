"""Small models with tokenizers of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

MODELS = Path(__file__).parents[3] / "golden" / "vocab" / "models"
"""Three tiny Llamas: ``base`` with a pad token beyond its embeddings, ``math`` with padding rows, ``code``."""

WIDTH = 4


def word_level(words: Sequence[str], **changes: Any) -> str:
    """Write a tokenizer whose tokens are whole words, in order of their numbers."""
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}, "unk_token": "?"},
    }
    return json.dumps(content | changes)


def write_model(
    folder: Path,
    words: Sequence[str],
    seed: int = 0,
    *,
    rows: int | None = None,
    dtype: Any = ml_dtypes.bfloat16,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model of an embedding, a norm and, unless `tensors` says otherwise, an output layer."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(word_level(words))
    random, count = np.random.default_rng(seed), rows or len(words)
    made = {
        "model.embed_tokens.weight": random.standard_normal((count, WIDTH)).astype(dtype),
        "model.norm.weight": random.standard_normal(WIDTH).astype(dtype),
        "lm_head.weight": random.standard_normal((count, WIDTH)).astype(dtype),
    }
    save_file(dict(tensors if tensors is not None else made), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": count, **(config or {})}))
    return folder


def copy_models(home: Path, dtype: Any = np.float32) -> dict[str, Path]:
    """Copy the golden models, in another dtype if asked for."""
    found = {}
    for name in ("base", "math", "code"):
        found[name] = home / name
        shutil.copytree(MODELS / name, home / name)
        file = home / name / "model.safetensors"
        save_file({key: value.astype(dtype) for key, value in load_file(file).items()}, file, {"format": "pt"})
    return found


def recipe(models: Sequence[Path], **changes: Any) -> dict[str, Any]:
    """Give a linear recipe with the first model as its base."""
    content = {
        "merge_method": "linear",
        "base_model": str(models[0]),
        "models": [{"model": str(path), "parameters": {"weight": 1.0}} for path in models],
    }
    return {key: value for key, value in (content | changes).items() if value is not None}

"""Which of the files beside weights belong to a model: configuration, tokenizer, licence and the like."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

WEIGHT_SUFFIXES: Final = frozenset((
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".pkl",
    ".zarr", ".zip", ".tar", ".gz", ".mlmodel", ".tflite", ".ot",
))  # fmt: skip
"""Suffixes of files that hold weights, or archives."""


LARGEST_BYTES: Final = 64 * 2**20
"""Larger files are not side files."""


def is_side_name(name: str) -> bool:
    """Whether a file in a checkpoint's folder belongs beside any weights, by its name."""
    return (
        not name.startswith(".")
        and PurePath(name).suffix.lower() not in WEIGHT_SUFFIXES
        and not name.endswith(".index.json")
    )

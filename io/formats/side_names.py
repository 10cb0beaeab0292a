"""Recognising side files, which are small files of a model beside its weights, such as configuration and tokenizer."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

WEIGHT_SUFFIXES: Final = frozenset((
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".pkl",
    ".zarr", ".zip", ".tar", ".gz", ".mlmodel", ".tflite", ".ot",
))  # fmt: skip
"""Suffixes of files with weights, and of archives."""


LARGEST_BYTES: Final = 64 * 2**20
"""Size of the largest side file, in bytes; larger files are left where they are."""


def is_side_name(name: str) -> bool:
    """Whether, by its name, a file in a checkpoint's folder is a side file."""
    return (
        not name.startswith(".")
        and PurePath(name).suffix.lower() not in WEIGHT_SUFFIXES
        and not name.endswith(".index.json")
    )

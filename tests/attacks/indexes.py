"""Sharded checkpoints whose index lies, and what must be said about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dovetail.io.errors import CheckpointError, IndexFileError, MissingFileError

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"
A, B = "a.safetensors", "b.safetensors"


@dataclass(frozen=True, slots=True)
class IndexAttack:
    """One hostile checkpoint folder."""

    id: str
    """What is wrong with it, in a word or two."""
    build: Callable[[Path], object]
    """Makes the checkpoint in an empty folder, beside which a file ``outside.safetensors`` lies."""
    text: str
    """Part of the error's text."""
    error: type[CheckpointError] = IndexFileError
    """The error."""


def save(path: Path, *names: str) -> None:
    save_file({name: np.zeros(2, np.float32) for name in names}, path)


def _index(folder: Path, content: Any) -> None:
    (folder / INDEX).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def raw(content: Any) -> Callable[[Path], object]:
    """Make a folder of an index of any content (bytes as they are, else as JSON) beside a good shard."""

    def build(folder: Path) -> None:
        save(folder / SHARD, "w")
        _index(folder, content)

    return build


def places(weight_map: Mapping[str, Any]) -> Callable[[Path], object]:
    return raw({"metadata": {}, "weight_map": weight_map})


def shards(files: Mapping[str, tuple[str, ...]], weight_map: Mapping[str, str]) -> Callable[[Path], object]:
    """Make a folder of shards, each of the tensors named, and an index."""

    def build(folder: Path) -> None:
        for file, names in files.items():
            save(folder / file, *names)
        _index(folder, {"weight_map": weight_map})

    return build


def link(target: str) -> Callable[[Path], object]:
    """Make a folder whose shard is a symbolic link."""

    def build(folder: Path) -> None:
        (folder / SHARD).symlink_to(target)
        _index(folder, {"weight_map": {"w": SHARD}})

    return build


OUTSIDE = "the name of a .safetensors file in the same folder"
INDEX_ATTACKS = (
    IndexAttack("empty", raw(b""), "is not JSON"),
    IndexAttack("not UTF-8", raw(b'{"\xff":1}'), "is not UTF-8"),
    IndexAttack("array", raw([]), "is a JSON array; expected a JSON object with a weight_map"),
    IndexAttack("deep nesting", raw(b"[" * 200_000), "is nested too deeply"),
    IndexAttack("too large", raw(b" " * 100_000_001), "is too large; expected at most 100000000 bytes"),
    IndexAttack("tensor twice", raw(b'{"weight_map":{"w":"a","w":"b"}}'), "has the name 'w' twice"),
    IndexAttack(
        "millions of values", raw(b'{"weight_map":[' + b"1," * 2_000_001 + b"1]}"), "more than 2,000,000 values"
    ),
    IndexAttack("enormous name", places({"w" * 100_000: SHARD}), "has a tensor name of 100000 characters"),
    IndexAttack("no weight_map", raw({"metadata": {}}), "weight_map in {index} is None"),
    IndexAttack("weight_map is a list", raw({"weight_map": [["w", SHARD]]}), "expected an object of file names"),
    IndexAttack("weight_map is empty", raw({"weight_map": {}}), "weight_map in {index} is {}"),
    IndexAttack("file is a number", places({"w": 1}), f"places tensor 'w' in 1; expected {OUTSIDE}"),
    IndexAttack("file is a list", places({"w": [SHARD]}), "places tensor 'w' in ['model-"),
    IndexAttack("file is null", places({"w": None}), "places tensor 'w' in None"),
    IndexAttack("file has no name", places({"w": ""}), f"places tensor 'w' in ''; expected {OUTSIDE}"),
    IndexAttack("parent folder", places({"w": "../outside.safetensors"}), f"/outside.safetensors'; expected {OUTSIDE}"),
    IndexAttack("hidden climb", places({"w": f"x/../../{SHARD}"}), OUTSIDE),
    IndexAttack("subfolder", places({"w": f"sub/{SHARD}"}), OUTSIDE),
    IndexAttack("absolute path", places({"w": f"/tmp/{SHARD}"}), OUTSIDE),
    IndexAttack("backslash", places({"w": f"..\\{SHARD}"}), OUTSIDE),
    IndexAttack("drive", places({"w": f"C:\\{SHARD}"}), OUTSIDE),
    IndexAttack("file name too long", places({"w": "x" * 300 + ".safetensors"}), OUTSIDE),
    IndexAttack("half a character", places({"w": "\ud800.safetensors"}), OUTSIDE),
    IndexAttack("NUL", places({"w": f"{SHARD}\0.safetensors"}), OUTSIDE),
    IndexAttack("pickle", places({"w": "pytorch_model.bin"}), f"in 'pytorch_model.bin'; expected {OUTSIDE}"),
    IndexAttack("only a suffix", places({"w": ".safetensors"}), OUTSIDE),
    IndexAttack(
        "shard missing",
        places({"w": SHARD, "v": "model-00002-of-00002.safetensors"}),
        "model-00002-of-00002.safetensors, named by model.safetensors.index.json, is not in {folder}",
        MissingFileError,
    ),
    IndexAttack("dangling link", link("nowhere"), "is not in {folder}", MissingFileError),
    IndexAttack("link to itself", link(SHARD), "is not in {folder}", MissingFileError),
    IndexAttack("link outside", link("../outside.safetensors"), "is a link that leads outside its folder"),
    IndexAttack("absolute link", link("/etc/hostname"), "is a link that leads outside its folder, to /etc/hostname"),
    IndexAttack("tensor missing", places({"w": SHARD, "v": SHARD}), f"'v' is not in {SHARD} (it is in none"),
    IndexAttack(
        "tensor elsewhere",
        shards({A: ("v",), B: ("w", "x")}, {"v": A, "w": A, "x": B}),
        "tensor 'w' is not in a.safetensors (it is in b.safetensors); expected it in that file, as {index} says",
    ),
    IndexAttack(
        "tensor in two shards",
        shards({A: ("v", "w"), B: ("w", "x")}, {"v": A, "w": A, "x": B}),
        "tensor 'w' is in b.safetensors and in an earlier file of {folder}",
    ),
)

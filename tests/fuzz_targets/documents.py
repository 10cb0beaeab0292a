"""Headers, indexes and configurations of safetensors checkpoints."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from dovetail.engine.planning.builder import make_plan
from dovetail.io import open_checkpoint
from dovetail.io.opening import read_checkpoint
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.fuzz import Target

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [8, 24]},
    "c.scales": {"dtype": "I64", "shape": [0, 3], "data_offsets": [24, 24]},
}
INDEX = {"metadata": {"total_size": 16}, "weight_map": {"v": "a.safetensors", "w": "b.safetensors"}}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "torch_dtype": "bfloat16",
    "text_config": {"quantization_config": None},
}
UNLIKE = {
    "merge_method": "cabs",
    "base_model": "base",
    "models": [{"model": "unlike.safetensors", "parameters": {"weight": 1, "n": 4, "m": 16}}],
}


def dumped(*documents: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


def claimed_bytes(body: bytes, otherwise: int = 24) -> int:
    """Give the size that a header claims for its tensors, so that most headers are not refused for that alone."""
    try:
        size = max(
            (fields["data_offsets"][1] for name, fields in json.loads(body).items() if name[0] != "_"), default=0
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return otherwise
    return size if type(size) is int and 0 <= size < 10_000 else otherwise


def header_target(home: Path) -> Target:
    """Files with a header: claims about lengths are now and then wrong too."""
    path = home / "header.safetensors"

    def use(body: bytes, chance: random.Random) -> None:
        length = len(body) if chance.random() < 0.9 else chance.choice((0, 8, len(body) + 9, 10**8, 2**63, 2**64 - 1))
        data = bytes(claimed_bytes(body) if chance.random() < 0.9 else chance.randrange(40))
        path.write_bytes(length.to_bytes(8, "little") + body + data)
        read = read_checkpoint(path)
        assert path.stat().st_size - 8 - length == read.nbytes, "tensors do not cover the file"
        if chance.random() < 0.1:
            for _, array in open_checkpoint(path).arrays():
                array[...]

    return Target("header", dumped(HEADER, {}, {"w": HEADER["a"] | {"shape": [2, 1, 1]}}), use)


def index_target(home: Path) -> Target:
    """Indexes beside two shards and a pickle."""
    for name, tensor in (("a", "v"), ("b", "w")):
        write_checkpoint(home / name, {tensor: llama_tensors(0)["model.norm.weight"]})
        (home / name / "model.safetensors").rename(home / f"{name}.safetensors")
    (home / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n")

    def use(data: bytes, chance: random.Random) -> None:
        (home / "model.safetensors.index.json").write_bytes(data)
        read_checkpoint(home)

    return Target("index", dumped(INDEX, {"weight_map": {"v": "a.safetensors"}}), use)


def config_target(home: Path) -> Target:
    """Configurations beside good weights."""
    folder = write_checkpoint(home / "configured", llama_tensors(0))

    def use(data: bytes, chance: random.Random) -> None:
        (folder / "config.json").write_bytes(data)
        read_checkpoint(folder)

    return Target("config", dumped(CONFIG), use)


def unlike_target(home: Path) -> Target:
    """A good recipe that is planned for checkpoints of which one has any header."""
    path, file, base = home / "unlike.yml", home / "unlike.safetensors", llama_tensors(0)
    path.write_text(json.dumps(UNLIKE))
    write_checkpoint(home / "base", base)
    raw = (write_checkpoint(home / "math", llama_tensors(1, base)) / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")

    def use(body: bytes, chance: random.Random) -> None:
        file.write_bytes(len(body).to_bytes(8, "little") + body + raw[start:])
        make_plan(path)

    return Target("unlike", (raw[8:start],), use)

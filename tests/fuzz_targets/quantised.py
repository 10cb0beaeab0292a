"""Headers and configurations of quantised checkpoints, whose elements are read where they are taken."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint
from tests.fuzz import Target
from tests.fuzz_targets.documents import claimed_bytes, dumped

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4], "fmt": "e4m3"}}
MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}
NVFP4 = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 16, "block_structure": None}}},
    }
}
_MOST_READ = 64


def _header(*tensors: tuple[str, str, list[int], int]) -> dict[str, Any]:
    """Describe tensors, each by name, dtype, shape and bytes, one after another."""
    document: dict[str, Any] = {}
    begin = 0
    for name, dtype, shape, size in tensors:
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    return document


HEADERS = {
    "fp8": (_header(("l.weight", "F8_E4M3", [8, 8], 64), ("l.weight_scale_inv", "F32", [2, 2], 16)), FP8),
    "mxfp4": (_header(("e.down_blocks", "U8", [1, 2, 2, 16], 64), ("e.down_scales", "U8", [1, 2, 2], 4)), MXFP4),
    "nvfp4": (
        _header(
            ("l.weight_packed", "U8", [4, 16], 64),
            ("l.weight_scale", "F8_E4M3", [4, 2], 8),
            ("l.weight_global_scale", "F32", [1], 4),
        ),
        NVFP4,
    ),
    "unnamed": (_header(("l.qweight", "I32", [8, 2], 64), ("l.other", "F16", [8, 1], 16)), {}),
}  # fmt: skip


def _read_some(checkpoint: Checkpoint) -> None:
    for info in checkpoint.tensors.values():
        info.source.read(0, min(info.length, _MOST_READ))


def _write(path: Path, body: bytes, size_bytes: int) -> None:
    data = bytes(range(64)) * (1 + size_bytes // 64)
    path.write_bytes(len(body).to_bytes(8, "little") + body + data[:size_bytes])


def header_target(home: Path) -> Target:
    """Headers of quantised checkpoints, beside configurations that name a format or none."""
    configs = dumped(*(config for _, config in HEADERS.values()), FP8)

    def use(body: bytes, chance: random.Random) -> None:
        (home / "config.json").write_bytes(chance.choice(configs))
        _write(home / "model.safetensors", body, claimed_bytes(body, otherwise=80))
        _read_some(read_checkpoint(home))

    return Target("quantised header", dumped(*(header for header, _ in HEADERS.values())), use)


def config_target(home: Path) -> Target:
    """Configurations of quantised checkpoints, in either of their files, beside weights that they describe."""
    for name, (header, _) in HEADERS.items():
        (home / name).mkdir()
        body = json.dumps(header).encode()
        _write(home / name / "model.safetensors", body, claimed_bytes(body))

    def use(data: bytes, chance: random.Random) -> None:
        folder = home / chance.choice(tuple(HEADERS))
        files = ("config.json", "hf_quant_config.json", "quantize_config.json")
        for name in files:
            (folder / name).unlink(missing_ok=True)
        (folder / chance.choice((files[0], files[0], files[0], *files))).write_bytes(data)
        _read_some(read_checkpoint(folder))

    modelopt = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["x"]}}
    return Target("quantised config", dumped(FP8, MXFP4, NVFP4, modelopt), use)

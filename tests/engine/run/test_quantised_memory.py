"""Peak resident memory of merges of quantised models, each in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.synthetic import SIZES, make_checkpoint
from tests.checkpoints import cabs_recipe, write_recipe
from tests.engine.run.test_memory_limit import MIB, merge_and_measure
from tests.naive_dequantise import FP8, MXFP4, Stored, stored, write_raw, zeros

pytestmark = pytest.mark.slow

LIMIT_MIB = 400
SHAPE = replace(SIZES["0.2GB"], layers=6)


def _codes(*shape: int) -> np.ndarray:
    """Make codes of finite float8 numbers; a megabyte of random ones, again and again."""
    return np.resize(np.random.default_rng(0).integers(0, 120, 2**20, np.uint8), shape)


def test_a_float8_base_stays_below_the_limit(tmp_path: Path) -> None:
    """A float8 base and two bfloat16 fine-tunes, 310 MB that would be 250 MB a model in float32, within 400 MiB."""
    kept: dict[str, Stored] = {}
    for name, shape in SHAPE.tensors().items():
        if len(shape) < 2:
            kept[name] = zeros("BF16", *shape)
            continue
        scales = np.full([-(-size // 128) for size in shape], 1e-4, np.float32)
        kept[name], kept[f"{name}_scale_inv"] = stored(_codes(*shape), "F8_E4M3"), stored(scales)
    write_raw(tmp_path / "base", kept, FP8)
    for index, name in enumerate(("math", "code")):
        make_checkpoint(tmp_path / name, SHAPE, index, pool_elements=1 << 20)
    recipe = cabs_recipe(tmp_path / "r.yml", tmp_path / "base", [tmp_path / "math", tmp_path / "code"])
    _check(*merge_and_measure(recipe, tmp_path / "out", LIMIT_MIB))


def test_experts_in_mxfp4_stay_below_the_limit(tmp_path: Path) -> None:
    """Stacked experts whose rows are stored as columns, of 65 MB packed and 500 MB in float32, within 400 MiB."""
    experts, inner, outer = 16, 2048, 4096
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{name}_blocks": stored(_codes(experts, outer, inner // 32, 16)),
        f"{name}_scales": stored(np.full((experts, outer, inner // 32), 120, np.uint8)),
    }
    for folder in ("one", "two"):
        write_raw(tmp_path / folder, tensors, MXFP4)
    models = [{"model": str(tmp_path / folder), "parameters": {"weight": 0.5}} for folder in ("one", "two")]
    recipe = write_recipe(tmp_path / "r.yml", merge_method="linear", models=models)
    _check(*merge_and_measure(recipe, tmp_path / "out", LIMIT_MIB))


def _check(peak_bytes: int, seen: list[dict[str, int]]) -> None:
    """Compare what was taken with what was projected, and that with the limit."""
    begun = seen[0]
    assert LIMIT_MIB * MIB == begun["allowed_bytes"]
    assert begun["projected_bytes"] <= begun["allowed_bytes"]
    assert peak_bytes <= begun["projected_bytes"], f"{peak_bytes / MIB:.1f} MiB, {begun}"

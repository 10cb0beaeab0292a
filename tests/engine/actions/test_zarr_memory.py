"""Peak resident memory of merges from and to Zarr, each in another process."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.synthetic import SIZES, make_checkpoint
from dovetail.io import open_checkpoint
from tests.checkpoints import cabs_recipe
from tests.engine.run.test_memory_limit import MIB, merge_and_measure
from tests.io.zarr_files import write_t5x

LIMIT_MIB = 512


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a safetensors base model and two compressed fine-tunes of 100 MB, one with chunks in both dimensions."""
    home = tmp_path_factory.mktemp("models")
    for index, name in enumerate(("base", "rows", "both")):
        make_checkpoint(home / name, SIZES["demo"], index, pool_elements=1 << 20)
    for name, rows, columns in (("rows", 700, 1 << 20), ("both", 3_000, 300)):
        tensors = {key: np.asarray(array[...]) for key, array in open_checkpoint(home / name).arrays()}
        write_t5x(home / f"{name}.zarr", tensors, rows, columns, codec="zstd")
        shutil.rmtree(home / name)
    return cabs_recipe(home / "recipe.yml", home / "base", [home / "rows.zarr", home / "both.zarr"])


def test_peak_memory_stays_below_the_limit(recipe: Path, tmp_path: Path) -> None:
    """The merge stays below its own projection, which stays below the limit, whatever is decoded or encoded.

    ``python bench/memory.py`` measures objects of zstd too.
    """
    options = ("--format", "zarr", "--codec", "blosc", "--zarr-shards", "16MB")
    peak_bytes, (begun, *_) = merge_and_measure(recipe, tmp_path / "out", LIMIT_MIB, *options)
    assert begun["read_bytes"] >= 300 * 10**6
    assert begun["projected_bytes"] <= begun["allowed_bytes"] == LIMIT_MIB * MIB
    assert peak_bytes <= begun["projected_bytes"], f"{peak_bytes / MIB:.1f} MiB, {begun}"

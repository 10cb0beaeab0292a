"""Synthetic checkpoints: their files, shapes and values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from dovetail.engine.synthetic import (
    DTYPES,
    SIZES,
    make_checkpoint,
    make_pools,
    plan_shards,
    shard_header,
    shard_names,
)

POOL = 1 << 18


def _shapes_on_disk(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "numpy") as shard:
            shapes |= {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
    return shapes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_checkpoint_has_every_tensor(tmp_path: Path, dtype: str, tied: bool) -> None:
    """The safetensors library reads every tensor of a Llama model back, sharded or not, with a right config."""
    shape = dataclasses.replace(SIZES["tiny"], tied=tied)
    for shards, limit in ((1, 10**9), (None, 50_000)):
        folder = tmp_path / str(limit)
        size_bytes = make_checkpoint(folder, shape, dtype=dtype, max_shard_bytes=limit, pool_elements=POOL)
        assert shape.tensors() == _shapes_on_disk(folder)
        assert (shards == 1) == (not (folder / "model.safetensors.index.json").exists())
        elements = sum(int(np.prod(dims)) for dims in shape.tensors().values())
        assert elements * DTYPES[dtype].itemsize == size_bytes
        assert dtype == json.loads((folder / "config.json").read_text())["torch_dtype"]
    assert tied == ("lm_head.weight" not in shape.tensors())


def test_index_names_every_shard(tmp_path: Path) -> None:
    """The index of a sharded checkpoint leads every tensor to the file that holds it."""
    make_checkpoint(tmp_path, SIZES["tiny"], max_shard_bytes=50_000, pool_elements=POOL)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set(index["weight_map"].values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, "numpy") as shard:
            assert name in shard.keys()  # noqa: SIM118


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    """A checkpoint is a function of its arguments; another seed or model gives other values."""
    written = {}
    for name, model, seed in (("a", 1, 0), ("again", 1, 0), ("model", 2, 0), ("seed", 1, 1)):
        make_checkpoint(tmp_path / name, SIZES["tiny"], model, seed=seed, pool_elements=POOL)
        written[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert written["a"] == written["again"]
    assert 3 == len(set(written.values()))


def test_changes_look_like_those_of_fine_tunes() -> None:
    """In bfloat16 about half of the changes are zero, a few are large, and the strongest overlap partly."""
    base, *tunes = (make_pools(model, "bfloat16", elements=1 << 20).weights.astype(np.float32) for model in range(3))
    changes = [np.abs(tune - base) for tune in tunes]
    strong = [change > np.quantile(change, 0.99) for change in changes]
    overlap = (strong[0] & strong[1]).sum() / (strong[0] | strong[1]).sum()
    for change in changes:
        assert 0.4 < np.mean(change == 0) < 0.7
        assert change.max() > 20 * change[change > 0].mean()
    assert 0.01 < overlap < 0.5
    assert 0.02 == pytest.approx(float(base.std()), rel=0.01)


def test_real_70b_shapes() -> None:
    """The 70B has Llama-3-70B's 723 tensors and 70.55 billion parameters."""
    shapes = SIZES["70B-shapes"].tensors()
    assert 723 == len(shapes)
    assert 70_553_706_496 == sum(int(np.prod(dims)) for dims in shapes.values())


def test_header_alignment_and_shard_limits() -> None:
    """Data starts at a multiple of the alignment, and no shard exceeds the limit unless one tensor does."""
    shapes = SIZES["tiny"].tensors()
    assert 0 == len(shard_header(shapes, "bfloat16", align_bytes=4096)) % 4096
    shards = plan_shards(shapes, 2, 30_000)
    assert shapes == {name: dims for shard in shards for name, dims in shard.items()}
    for shard in shards:
        assert len(shard) == 1 or 2 * sum(int(np.prod(dims)) for dims in shard.values()) <= 30_000
    assert ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] == shard_names(2)

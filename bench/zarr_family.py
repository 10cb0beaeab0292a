"""Store checkpoints as Zarr, by zarr-python or tensorstore alone, for other scripts.

    python bench/zarr_family.py FOLDER... --kind v3       # FOLDER becomes FOLDER.zarr

Kinds: ``v3`` (zstd, chunks of whole rows), ``shards`` (v3 shards), ``t5x`` (v2 by tensorstore, gzip, chunks in both
dimensions, as partitions of an accelerator mesh leave them).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from workplace import ZARR_KINDS

from dovetail.io import open_checkpoint

STEP_ROWS = 1024


def create(path: Path, array: Any, kind: str) -> Any:
    """Create an array like another, and give what writes rows of it."""
    shape = array.shape
    if kind == "t5x":
        chunks = [max(1, shape[0] // 4), *(max(1, size // 4) for size in shape[1:])]
        metadata = {
            "dtype": "bfloat16" if array.dtype.name == "bfloat16" else array.dtype.str,
            "shape": list(shape),
            "chunks": chunks,
            "compressor": {"id": "gzip", "level": 1},
        }
        place = {"driver": "file", "path": str(path)}
        return tensorstore.open({"driver": "zarr", "kvstore": place, "metadata": metadata}, create=True).result()
    rows = max(1, min(shape[0], (1 << 20) // max(1, int(np.prod(shape[1:])))))
    chunks = [rows, *shape[1:]]
    shards = [rows * min(16, -(-shape[0] // rows)), *shape[1:]] if kind == "shards" else None
    return zarr.create_array(str(path), shape=shape, chunks=chunks, shards=shards, dtype=array.dtype)


def store(folder: Path, kind: str) -> Path:
    """Store one checkpoint, a few rows at a time."""
    target = folder.with_name(f"{folder.name}.zarr")
    target.mkdir()
    for name, array in open_checkpoint(folder).arrays():
        stored = create(target / name, array, kind)
        step = stored.shards[0] if kind == "shards" else STEP_ROWS if kind == "v3" else max(1, array.shape[0] // 4)
        for start in range(0, array.shape[0], step):
            part = array[start : start + step]
            if kind == "t5x":
                stored[start : start + step].write(part).result()
            else:
                stored[start : start + step] = part
    for path in folder.glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copy(path, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--kind", choices=ZARR_KINDS, default="v3")
    args = parser.parse_args()
    for folder in args.folders:
        print(store(folder, args.kind))


if __name__ == "__main__":
    main()

"""Write synthetic Llama-shaped checkpoints: a base model and fine-tunes.

    python bench/checkpoints.py FOLDER --size 0.85B --fine-tunes 2

Makes ``FOLDER/base``, ``FOLDER/tune1``, ``FOLDER/tune2`` ... See `dovetail.engine.synthetic` for what the values
are like.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from dovetail.engine.synthetic import DTYPES, SIZES, LlamaShape, make_checkpoint

SHAPE_OPTIONS = ("hidden", "intermediate", "layers", "heads", "kv_heads", "vocabulary")


def model_folder(folder: Path, model: int) -> Path:
    """Name the folder of the base model (0) or a fine-tune."""
    return folder / (f"tune{model}" if model else "base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="0.85B")
    parser.add_argument("--fine-tunes", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=10**9, help="largest shard")
    parser.add_argument("--tied", action="store_true", help="the output head is the embedding")
    for name in SHAPE_OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the named size's")
    args = parser.parse_args()
    changed = {name: getattr(args, name) for name in SHAPE_OPTIONS if getattr(args, name) is not None}
    shape: LlamaShape = dataclasses.replace(SIZES[args.size], tied=args.tied, **changed)
    for model in range(args.fine_tunes + 1):
        started = time.monotonic()
        folder = model_folder(args.folder, model)
        size_bytes = make_checkpoint(
            folder, shape, model, dtype=args.dtype, seed=args.seed, max_shard_bytes=args.shard_bytes
        )
        print(f"{folder}: {size_bytes / 1e9:.3f} GB in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()

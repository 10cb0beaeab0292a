"""Checkpoints of hundreds of gigabytes on a small disk: shards built from shared blocks.

On XFS and btrfs ``FICLONERANGE`` makes a range of one file share the disk blocks of a range of another. A pool of
some hundred megabytes a model, with the values that `dovetail.engine.synthetic` makes, becomes a checkpoint of any
size: it reads like any other, each shard has a page cache of its own, and it takes hardly any room. Pieces have the
same offset in the pools of all models, so fine-tunes differ from the base as they should.

    python bench/shared_blocks.py FOLDER --layers 80 --fine-tunes 2
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import math
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

from checkpoints import model_folder

from dovetail.engine.synthetic import (
    DTYPES,
    SIZES,
    make_pools,
    plan_shards,
    shard_header,
    shard_names,
    write_side_files,
)

FICLONERANGE = 0x4020940D
PUNCH_HOLE = 0x01 | 0x02
"""``FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE``."""
ALIGN_BYTES = 4096
"""Ranges are cloned in whole blocks of the file system."""
DTYPE = "bfloat16"
SHARD_BYTES = 5 * 10**9


class ImageError(RuntimeError):
    """The machine does not allow a file system in an image."""


@contextlib.contextmanager
def mounted_image(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an XFS file system that lives in a sparse file; give where. Unmount and remove it at the end.

    What is freed inside it is given back to the disk (``discard``), so it may be far larger than the disk.

    Raises
    ------
    ImageError
        A program, or the right to mount, is missing.

    """
    image, place = folder / "image.xfs", folder / "mounted"
    if not shutil.which("mkfs.xfs"):
        raise ImageError("mkfs.xfs is missing: install the package xfsprogs")
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    try:
        _call("mkfs.xfs", "-q", "-m", "reflink=1", image)
        _call("mount", "-o", "loop,discard,noatime", image, place)
        try:
            yield place
        finally:
            _call("umount", place)
    finally:
        image.unlink()


def _call(*command: str | Path) -> None:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if result.returncode:
        raise ImageError(f"{' '.join(map(str, command))} fails: {result.stderr.strip()}")


def clone(source: int, source_start: int, target: int, target_start: int, length: int) -> bool:
    """Let a range of one open file share the blocks of another; False where the file system cannot."""
    request = struct.pack("qQQQ", source, source_start, length, target_start)
    try:
        fcntl.ioctl(target, FICLONERANGE, request)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def punch(path: Path, start: int) -> None:
    """Give the blocks of a file from ``start`` on back to the disk; its size stays."""
    library = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        length = path.stat().st_size - start
        if library.fallocate(file.fileno(), PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(length)):
            raise OSError(ctypes.get_errno(), f"{path} cannot be punched")
        os.fsync(file.fileno())


def build(folder: Path, layers: int, fine_tunes: int, pool_bytes: int) -> bool:
    """Build a base model and fine-tunes with the shapes of Llama-3-70B; False if their values are all zero."""
    shape = dataclasses.replace(SIZES["70B-shapes"], layers=layers)
    itemsize = DTYPES[DTYPE].itemsize
    shards = plan_shards(shape.tensors(), itemsize, SHARD_BYTES)
    shared = True
    for model in range(fine_tunes + 1):
        place = model_folder(folder, model)
        place.mkdir(parents=True)
        pools = make_pools(model, DTYPE, elements=pool_bytes // itemsize)
        files = []
        for values in (pools.weights, pools.norms):
            file = (place / f"{len(files)}.pool").open("w+b")
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
            files.append(file)
        del pools
        for name, shard in zip(shard_names(len(shards)), shards, strict=True):
            shared &= _build_shard(place / name, shard, [file.fileno() for file in files])
        for file in files:
            Path(file.name).unlink()
            file.close()
        write_side_files(place, shape, DTYPE, shards)
    return shared


def _build_shard(path: Path, shapes: dict[str, tuple[int, ...]], pools: list[int]) -> bool:
    header = shard_header(shapes, DTYPE, align_bytes=ALIGN_BYTES)
    shared = True
    with path.open("wb") as target:
        target.write(header)
        end = len(header)
        for name, shape in shapes.items():
            pool = pools[len(shape) == 1]
            pool_bytes = os.fstat(pool).st_size
            left = DTYPES[DTYPE].itemsize * math.prod(shape)
            for piece in range(-(-left // (pool_bytes // 2))):
                length = min(left, pool_bytes // 2)
                places = (pool_bytes - length) // ALIGN_BYTES + 1
                start = zlib.crc32(f"{name}/{piece}".encode()) % places * ALIGN_BYTES
                target.truncate(end + length)
                shared &= clone(pool, start, target.fileno(), end, length)
                left, end = left - length, end + length
    return shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--fine-tunes", type=int, default=2)
    parser.add_argument("--pool-bytes", type=int, default=1 << 28, help="size of a model's pool of values")
    args = parser.parse_args()
    if not build(args.folder, args.layers, args.fine_tunes, args.pool_bytes):
        print("The file system cannot share blocks: the shards are sparse files, all values are zero.")


if __name__ == "__main__":
    main()

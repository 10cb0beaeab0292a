"""The digest by which modules name their parent: that of its weights, however they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import xxhash

from dovetail.io.checkpoint import Checkpoint

STEP_BYTES: Final = 4 * 2**20
"""Bytes that are read at a time."""


def digest_of(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """Compute the digest of some tensors of a checkpoint, which are read once, step by step.

    Returns
    -------
    str
        XXH3-128 of the names, dtypes, shapes and elements in order of name, as ``xxh3-128:`` and hexadecimal digits.

    Raises
    ------
    CheckpointError
        A tensor cannot be read.

    """
    digest = xxhash.xxh3_128()
    for name in sorted(names):
        info = checkpoint.tensors[name]
        digest.update(f"{name}\0{info.dtype.name}\0{list(info.shape)}\0".encode())
        step = STEP_BYTES // info.source.itemsize
        for start in range(0, info.length, step):
            stop = min(info.length, start + step)
            info.source.populate(start, stop)  # raises an error for pages that cannot be read
            digest.update(info.source.read(start, stop).data)
            info.source.release(start, stop)
    return f"xxh3-128:{digest.hexdigest()}"

"""Whether a stored head is only a copy of the embedding: the only question for which a plan reads a checkpoint's bytes.

It is asked only where the output depends on it (see `dovetail.engine.recipe.tied`). Heads that differ do so within the
first window; only a copy is read to its end.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail.io.checkpoint import Checkpoint

_WINDOW_BYTES: Final = 4 * 2**20
"""Bytes of each of both tensors that are compared at a time."""


def is_copy(checkpoint: Checkpoint, head: str, embedding: str) -> bool | None:
    """Whether two tensors of a checkpoint have the same bytes.

    None where that is not known before the merge: reading a remote checkpoint twice would cost more than a head that
    is stored once too often, and the result of a stage that is not merged yet cannot be read.

    Raises
    ------
    CheckpointError
        The stored bytes changed, vanished or are damaged.

    """
    ours, theirs = checkpoint.tensors[head], checkpoint.tensors[embedding]
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    if checkpoint.remote or not checkpoint.files:
        return None
    window = max(1, _WINDOW_BYTES // ours.dtype.itemsize)
    for start in range(0, ours.length, window):
        stop = min(start + window, ours.length)
        same = np.array_equal(ours.source.read(start, stop), theirs.source.read(start, stop))
        for source in (ours.source, theirs.source):
            source.release(start, stop)
        if not same:
            return False
    return True

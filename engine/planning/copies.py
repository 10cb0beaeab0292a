"""Whether a stored tensor is only a copy of another: the only question for which a plan reads a checkpoint's bytes.

It is asked only where the output depends on it: of heads that are copies of embeddings (see
`dovetail.engine.recipe.tied`), and of tensors that only some models store (see `dovetail.engine.recipe.shared`).
Tensors that differ do so within the first window; only a copy is read to its end.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail.io.checkpoint import Checkpoint

_FIRST_BYTES: Final = 16 * 2**10
_WINDOW_BYTES: Final = 4 * 2**20
"""Bytes of each of both tensors that are compared first, and from then on at a time."""


def is_copy(checkpoint: Checkpoint, one: str, other: str) -> bool | None:
    """Whether two tensors of a checkpoint have the same bytes, and not one value alone.

    Norms that are all ones are alike by chance. None where the answer is not known before the merge: reading a remote
    checkpoint twice would cost more than a head that is stored once too often, and the result of a stage that is not
    merged yet cannot be read.

    Raises
    ------
    CheckpointError
        The stored bytes changed, vanished or are damaged.

    """
    ours, theirs = checkpoint.tensors[one], checkpoint.tensors[other]
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    if checkpoint.remote or checkpoint.planned:
        return None
    start, size, varied = 0, _FIRST_BYTES, False
    first = ours.source.read(0, min(1, ours.length)).copy()
    while start < ours.length:
        stop = min(start + max(1, size // ours.dtype.itemsize), ours.length)
        found = ours.source.read(start, stop)
        same = np.array_equal(found, theirs.source.read(start, stop))
        varied = varied or bool((found.reshape(stop - start, -1) != first).any())
        del found  # or the pages that it views would stay
        for source in (ours.source, theirs.source):
            source.release(start, stop)
        if not same:
            return False
        start, size = stop, _WINDOW_BYTES
    return varied

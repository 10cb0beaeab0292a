"""Choosing what each model keeps by CABS, window by window, for programs that do not merge in the same sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from dovetail.engine.kernels import exclusive
from dovetail.engine.kernels.general import claim_blocks
from dovetail.engine.methods.decoding import ElementRange, Floats, Marks, TaskVectors, read_only

Blocks = Sequence[tuple[int, int]]
"""For each model, n and m: how many elements of a block it keeps, and how many a block has."""

Chosen = tuple[int, Floats, Marks]
"""The first element that a model was asked about, its task vector from there on, and 1 where it keeps an element."""

Choose = Callable[[TaskVectors, ElementRange, Sequence[ElementRange]], Iterator[Chosen]]
"""Gives what each model keeps of a window that was begun, and of which each model's mask must be known on a range. What
it gives is valid until the next."""


def choose_free(blocks: Blocks, size: int) -> Choose:
    """Let models choose among what is free, by the kernels that merges have: windows hold whole blocks of every model.

    Parameters
    ----------
    blocks
        The blocks.
    size
        Most elements of a window.

    """
    floats, words, memory, _ = exclusive.make_scratch(size, [m for _, m in blocks])
    return partial(_choose_free, blocks, (floats[0], words[0], words[1], memory), np.empty(size, np.uint8))


def _choose_free(
    blocks: Blocks,
    scratch: tuple[Any, ...],
    mask: Marks,
    vectors: TaskVectors,
    window: ElementRange,
    _: Sequence[ElementRange],
) -> Iterator[Chosen]:
    (copy, free, words, memory), nothing = scratch, read_only(np.empty(0, np.uint8))
    first, last = window
    marks = mask[: last - first]
    free[: last - first] = 0xFFFF
    for model, (n, m) in enumerate(blocks):
        tau = vectors.tau(model, first, last)
        copy[: last - first] = tau  # the selection needs room behind it
        exclusive.select_free(copy, n, m, free, words, memory, nothing, marks)
        yield first, tau, marks


def choose_any(blocks: Blocks, size: int, mode: int) -> Choose:
    """Let models choose by the general kernels, for all options; see `choose_free`."""
    ranks = np.empty(min(size, max(m for _, m in blocks)), np.int64)
    return partial(_choose_any, blocks, mode, ranks, (np.empty(size, np.uint16), np.empty(size, np.uint8)))


def _choose_any(
    blocks: Blocks,
    mode: int,
    ranks: Any,
    scratch: tuple[Any, Marks],
    vectors: TaskVectors,
    window: ElementRange,
    ranges: Sequence[ElementRange],
) -> Iterator[Chosen]:
    (claims, mask), (first, last) = scratch, window
    claims[: last - first] = 0
    for model, ((n, m), (low, high)) in enumerate(zip(blocks, ranges, strict=True)):
        tau, marks = vectors.tau(model, low, high), mask[: high - low]
        claim_blocks(tau, n, m, mode, claims[low - first : high - first], marks, ranks)
        yield low, tau, marks

"""The memory that marking by rank works in; the kernels are in `ranks`, which plans need not import."""

from __future__ import annotations

BINS = 1 << 16
"""Bins of the histogram of a row: one for each key of 16 bits, and some that are no keys."""


def rank_scratch_bytes(row_length: int) -> int:
    """Give the most memory that marking a row takes: bins, keys, sort keys, and undecided elements."""
    return 4 * BINS + (2 + 8 + 1) * row_length + 8 * 64

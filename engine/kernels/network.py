"""Sorting and choosing in 16 blocks at once, as vector code with one block in each lane.

The sorting network is the odd-even merge sort of K. E. Batcher, "Sorting networks and their applications", 1968.
"""

from __future__ import annotations

from typing import Any

from dovetail.engine.kernels.emit import I32, constant, count_ones, umax, umin

BLOCKS = 16
"""Number of blocks that are handled side by side."""

ZERO = constant(I32, [0] * BLOCKS)


def exchanges(first: int, count: int) -> list[tuple[int, int]]:
    """List the pairs of rows (i, j) that a sort puts in descending order, one pair after another.

    The pairs sort `count` rows, a power of two, from row `first` on. The halves are sorted one after the other and not
    in step, so that few rows are in use at a time and stay in registers.
    """
    if count == 1:
        return []
    half = count // 2
    pairs = exchanges(first, half) + exchanges(first + half, half)
    return pairs + merges(first, count, 1)


def merges(first: int, count: int, step: int) -> list[tuple[int, int]]:
    """List the pairs of rows that merge the two sorted halves of every `step`-th of `count` rows from `first` on."""
    if 2 * step >= count:
        return [(first, first + step)]
    pairs = merges(first, count, 2 * step) + merges(first + step, count, 2 * step)
    return pairs + [(i, i + step) for i in range(first + step, first + count - step, 2 * step)]


def sort(builder: Any, rows: list[Any]) -> list[Any]:
    """Sort the elements of every block, so that the largest are in the first row."""
    rows = list(rows)
    for i, j in exchanges(0, len(rows)):
        rows[i], rows[j] = umax(builder, rows[i], rows[j]), umin(builder, rows[i], rows[j])
    return rows


def merge(builder: Any, rows: list[Any]) -> list[Any]:
    """Sort the elements of every block, given that each half of the rows is sorted."""
    rows = list(rows)
    for i, j in merges(0, len(rows), 1):
        rows[i], rows[j] = umax(builder, rows[i], rows[j]), umin(builder, rows[i], rows[j])
    return rows


def collect(builder: Any, conditions: list[Any]) -> Any:
    """Collect the conditions of all rows, in every lane, into one integer: bit i is the condition of row i."""
    bits = ZERO
    for row, condition in enumerate(conditions):
        bits = builder.or_(bits, builder.select(condition, constant(I32, [1 << row] * BLOCKS), ZERO))
    return bits


def lowest(builder: Any, bits: Any, count: Any, rows: int) -> Any:
    """Clear all but the lowest `count` of the bits that are set in `bits`, an integer of `rows` bits, in every lane."""
    one, found, length, step = constant(I32, [1] * BLOCKS), ZERO, ZERO, rows // 2
    while step:
        longer = builder.add(length, constant(I32, [step] * BLOCKS))
        part = builder.and_(bits, builder.sub(builder.shl(one, longer), one))
        fits = builder.icmp_unsigned("<=", count_ones(builder, part), count)
        length, found = builder.select(fits, longer, length), builder.select(fits, part, found)
        step //= 2
    return builder.select(builder.icmp_unsigned("<=", count_ones(builder, bits), count), bits, found)

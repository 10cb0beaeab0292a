"""Writing an output: processor time of 0.5 GB in blocks as merges write them, in calls of several lengths.

    python bench/writing.py

Blocks have the length of a chunk and begin at no multiple of anything, as in a safetensors file. Each is written in
one call, or in calls that end at multiples of a length; into holes of the file, or into room that is reserved for the
block. Ways take turns; a figure is the median of the repeats, with the range in brackets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import workplace
from numpy.typing import NDArray
from report import print_table, spread, write_results

from dovetail.io.files.system import drop_cached, reserve

BLOCK_BYTES = 4_893_696
BLOCKS = 100
FIRST_BYTES = 17_352
"""Where the first block begins: after a header."""
MIB = 2**20
PIECES = (None, 4 * MIB, 2 * MIB, MIB, MIB // 2, MIB // 4, MIB // 8)
"""Lengths of calls in bytes; None for a block in one call."""


def pieces(begin: int, end: int, length: int | None) -> Iterator[tuple[int, int]]:
    """Cut a range of a file at the multiples of a length."""
    while begin < end:
        stop = end if length is None else min(end, begin - begin % length + length)
        yield begin, stop
        begin = stop


def write(path: Path, length: int | None, *, reserves: bool) -> tuple[float, float, float]:
    """Write a file; give the seconds of processor time that writing, flushing and dropping its pages took."""
    block: NDArray[np.uint8] = np.zeros(BLOCK_BYTES, np.uint8)
    size, writing = FIRST_BYTES + BLOCKS * BLOCK_BYTES, 0.0
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(descriptor, size)
        for index in range(BLOCKS):
            block[:] = index  # as a kernel leaves it: in the cache as far as it fits
            start = FIRST_BYTES + index * BLOCK_BYTES
            begun = time.thread_time()
            if reserves:
                reserve(descriptor, start, BLOCK_BYTES)
            for low, high in pieces(start, start + BLOCK_BYTES, length):
                os.pwrite(descriptor, block[low - start : high - start].data, low)
            writing += time.thread_time() - begun
        written = time.thread_time()
        os.fdatasync(descriptor)
        flushed = time.thread_time()
        drop_cached(descriptor, 0, size)
        return writing, flushed - written, time.thread_time() - flushed
    finally:
        os.close(descriptor)
        path.unlink()


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way [5]")
    args = parser.parse_args()
    ways = [(length, reserves) for reserves in (False, True) for length in PIECES]
    found: dict[tuple[int | None, bool], list[tuple[float, float, float]]] = {way: [] for way in ways}
    with workplace.workplace(args.work, 10**9) as place:
        for _ in range(args.repeats):
            for length, reserves in ways:
                found[length, reserves].append(write(place / "out", length, reserves=reserves))
    rows = [
        (
            "one" if length is None else f"{length // 1024} KiB",
            "reserved" if reserves else "holes",
            *(spread(each, 3) for each in zip(*found[length, reserves], strict=True)),
        )
        for length, reserves in ways
    ]
    title = f"{BLOCKS * BLOCK_BYTES / 1e9:.2f} GB in blocks of {BLOCK_BYTES / 1e6:.1f} MB: seconds of processor time"
    print_table(title, ("calls that end at", "into", "write", "flush", "drop"), rows)
    write_results("writing", {f"{length}, {reserves}": runs for (length, reserves), runs in found.items()})


if __name__ == "__main__":
    main()

"""The least that a merge can do: read every byte of all inputs once, write every byte of the output once, durably.

    python bench/floor_io.py OUT INPUT INPUT ... --threads 2 --read map --flush steady

Inputs are checkpoints with the same shards. Each thread takes the next block of a shard, reads it from every input,
and writes the block of the last input to the output. Reading a block into a small buffer costs a copy; reading it
through a memory map costs page faults and one pass of addition. Nothing else is computed.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 4 << 20
WRITE_OUT = 2
"""``SYNC_FILE_RANGE_WRITE``: start writing a range to the disk, without waiting."""
POPULATE_READ = 22
"""``MADV_POPULATE_READ``: map a range for reading at once."""

Reader = Callable[[int, int], memoryview]


def buffer_reader(path: Path) -> Reader:
    """Read blocks of a file into a buffer of the calling thread."""
    descriptor = os.open(path, os.O_RDONLY)
    local = threading.local()

    def read(start: int, length: int) -> memoryview:
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(bytearray(BLOCK_BYTES))
        if os.preadv(descriptor, [local.buffer[:length]], start) != length:
            raise OSError(f"{path} is shorter than its size")
        return local.buffer[:length]

    return read


def map_reader(path: Path) -> Reader:
    """Touch every byte of blocks of a memory-mapped file."""
    import numpy as np

    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    view = memoryview(mapping)

    def read(start: int, length: int) -> memoryview:
        mapping.madvise(POPULATE_READ, start, length)
        np.frombuffer(view, np.uint64, length // 8, start).sum()
        return view[start : start + length]

    return read


def copy(inputs: list[Path], out: Path, threads: int, read: str, flush: str) -> None:
    """Read all inputs and write the output."""
    make = map_reader if read == "map" else buffer_reader
    out.mkdir(parents=True, exist_ok=True)
    blocks = []
    outputs = []
    for shard in sorted(inputs[-1].glob("*.safetensors")):
        readers = [make(folder / shard.name) for folder in inputs]
        sizes = [(folder / shard.name).stat().st_size for folder in inputs]
        outputs.append(os.open(out / shard.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        os.ftruncate(outputs[-1], sizes[-1])
        blocks += [(readers, sizes, outputs[-1], start) for start in range(0, max(sizes), BLOCK_BYTES)]
    library = ctypes.CDLL(None, use_errno=True)
    counter = itertools.count()

    def work() -> None:
        while (index := next(counter)) < len(blocks):
            readers, sizes, output, start = blocks[index]
            for reader, size in zip(readers, sizes, strict=True):
                block = reader(start, max(0, min(BLOCK_BYTES, size - start)))
            os.pwrite(output, block, start)
            if flush == "steady":
                library.sync_file_range(output, ctypes.c_int64(start), ctypes.c_int64(len(block)), WRITE_OUT)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for output in outputs:
        os.fsync(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--read", choices=("buffer", "map"), default="buffer")
    parser.add_argument("--flush", choices=("end", "steady"), default="steady")
    args = parser.parse_args()
    copy(args.inputs, args.out, args.threads, args.read, args.flush)


if __name__ == "__main__":
    main()

"""The least that a merge can do: read every byte of all inputs once, write every byte of the output once, durably.

    python bench/floor_io.py OUT INPUT INPUT ... --threads 2 --read map --flush steady

Inputs are checkpoints with the same shards. Each thread takes the next block of a shard, reads it from every input,
and writes a block of as many bytes to the output. Every byte that is read is looked at once, and every byte that is
written is made; nothing else is computed.
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

import numpy as np

WRITE_OUT = 2
"""``SYNC_FILE_RANGE_WRITE``: start writing a range to the disk, without waiting."""
UNCACHED = 0x80
"""``RWF_DONTCACHE``: drop the pages of a write when they are on the disk (Linux 6.14)."""
DONTNEED, HUGE_PAGES, POPULATE_READ = 4, 14, 22
"""Advice on memory: let it go, back it by huge pages, map it for reading at once."""
GROUP_BYTES = 64 << 20
"""Output that is flushed at once by ``--flush groups``, and then dropped from the page cache."""
PAGE_BYTES = mmap.PAGESIZE

READS = ("buffer", "map", "release", "fault")
"""Into a buffer by ``preadv``; through a map whose pages are made resident block by block, and kept or let go; through
a map whose pages become resident when they are touched."""
FLUSHES = ("end", "steady", "groups", "uncached", "direct")
"""When the output goes to the disk: at the end, begun with every block, in groups, by the system with every block, or
past the page cache."""

Reader = Callable[[int, int], None]

library = ctypes.CDLL(None, use_errno=True)
library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def look_at(data: np.ndarray) -> None:
    """Read every byte, at the speed of the memory."""
    data[: data.size // 8 * 8].view(np.uint64).max(initial=0)


def buffer_reader(path: Path, block_bytes: int) -> Reader:
    """Read blocks of a file into a buffer of the calling thread."""
    descriptor = os.open(path, os.O_RDONLY)
    local = threading.local()

    def read(start: int, length: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = np.zeros(block_bytes, np.uint8)
        if os.preadv(descriptor, [local.buffer[:length].data], start) != length:
            raise OSError(f"{path} is shorter than its size")
        look_at(local.buffer[:length])

    return read


def map_reader(path: Path, *, populates: bool, releases: bool) -> Reader:
    """Read blocks of a memory-mapped file."""
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    address = mapped.__array_interface__["data"][0]

    def read(start: int, length: int) -> None:
        if populates:
            library.madvise(address + start, length, POPULATE_READ)
        look_at(mapped[start : start + length])
        if releases:
            library.madvise(address + start, length, DONTNEED)

    return read


def make_reader(path: Path, args: argparse.Namespace) -> Reader:
    """Make the reader of one input file."""
    if args.read == "buffer":
        return buffer_reader(path, args.block)
    return map_reader(path, populates=args.read != "fault", releases=args.read == "release")


class Writer:
    """Writes blocks to the output, each from the calling thread's buffer, which it fills first."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._local, self._lock, self._waiting_bytes = args, threading.local(), threading.Lock(), 0

    def write(self, output: int, start: int, length: int) -> None:
        """Write a block of an output file."""
        block = self._buffer()[: length if self._args.flush != "direct" else -(-length // PAGE_BYTES) * PAGE_BYTES]
        block[: length // 8 * 8].view(np.uint64)[:] = start
        if self._args.flush == "uncached":
            os.pwritev(output, [block.data], start, UNCACHED)
        else:
            os.pwrite(output, block.data, start)
        if self._args.flush == "steady":
            library.sync_file_range(output, ctypes.c_int64(start), ctypes.c_int64(length), WRITE_OUT)
        if self._args.flush == "groups" and self._is_group(length):
            os.fdatasync(output)
            os.posix_fadvise(output, 0, start, os.POSIX_FADV_DONTNEED)

    def _buffer(self) -> np.ndarray:
        if not hasattr(self._local, "buffer"):
            self._local.buffer = buffer = np.frombuffer(mmap.mmap(-1, self._args.block), np.uint8)
            if self._args.huge:
                library.madvise(buffer.__array_interface__["data"][0], buffer.size, HUGE_PAGES)
        found: np.ndarray = self._local.buffer
        return found

    def _is_group(self, length: int) -> bool:
        with self._lock:
            self._waiting_bytes += length
            is_full = self._waiting_bytes >= GROUP_BYTES
            self._waiting_bytes = 0 if is_full else self._waiting_bytes
            return is_full


def copy(args: argparse.Namespace) -> None:
    """Read all inputs and write the output."""
    args.out.mkdir(parents=True, exist_ok=True)
    blocks = []
    outputs = {}
    for shard in sorted(args.inputs[-1].glob("*.safetensors")):
        readers = [make_reader(folder / shard.name, args) for folder in args.inputs]
        sizes = [(folder / shard.name).stat().st_size for folder in args.inputs]
        mode = os.O_RDWR | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if args.flush == "direct" else 0)
        output = os.open(args.out / shard.name, mode, 0o644)
        outputs[output] = sizes[-1]
        os.ftruncate(output, sizes[-1])
        blocks += [(readers, sizes, output, start) for start in range(0, max(sizes), args.block)]
    counter = itertools.count()
    writer = Writer(args)

    def work() -> None:
        while (index := next(counter)) < len(blocks):
            readers, sizes, output, start = blocks[index]
            for reader, size in zip(readers, sizes, strict=True):
                reader(start, max(0, min(args.block, size - start)))
            writer.write(output, start, max(0, min(args.block, sizes[-1] - start)))

    workers = [threading.Thread(target=work) for _ in range(args.threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for output, size_bytes in outputs.items():
        os.ftruncate(output, size_bytes)  # past the cache, whole pages are written
        os.fsync(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--read", choices=READS, default="buffer")
    parser.add_argument("--flush", choices=FLUSHES, default="steady")
    parser.add_argument("--block", type=int, default=4 << 20, help="bytes that are read or written at a time [4 MiB]")
    parser.add_argument("--huge", action="store_true", help="write from buffers in huge pages")
    copy(parser.parse_args())


if __name__ == "__main__":
    main()

"""The CABS kernel alone: time an element by n:m, dtype and number of models, beside memcpy and torch.

    python bench/kernels.py

All contestants work on the same values, in turn, in one process, from memory to memory. A figure is nanoseconds
for each element of the output: reading the base and K models, selecting, merging, rounding and writing.
"memcpy" copies as many bytes as the kernel reads and writes. "torch" is the same computation as a user of torch
would write it (topk of every block, models in turn), with as many threads; it needs the extra "torch".
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from report import print_table, write_results

from dovetail.engine.kernels.convert import BF16, F16, F32
from dovetail.engine.methods.program import Chunk, Problem
from dovetail.engine.methods.registry import find

BLOCKS = ((2, 4), (4, 16), (3, 32), (32, 128), (64, 256), (256, 1024))
UNUSUAL = ((3, 7), (5, 24), (25, 100), (250, 1000))
DTYPES: dict[str, tuple[int, Any]] = {
    "bfloat16": (BF16, ml_dtypes.bfloat16),
    "float16": (F16, np.float16),
    "float32": (F32, np.float32),
}

Sources = list[NDArray[Any]]


def make_sources(models: int, elements: int, dtype: Any) -> Sources:
    """Draw a base model and fine-tunes: heavy-tailed changes, of which many are exactly zero in narrow dtypes."""
    random = np.random.default_rng(0)
    base = (random.standard_normal(elements) * 0.02).astype(dtype)
    changed = [base.astype(np.float32) + random.standard_t(3, elements) * 4e-5 for _ in range(models)]
    return [base, *(each.astype(dtype) for each in changed)]


def kernel(sources: Sources, code: int, n: int, m: int, threads: int) -> Callable[[], None]:
    """Make a call that merges by CABS, each thread a part of the elements."""
    models, part = len(sources) - 1, sources[0].size // threads
    own = {"n": n, "m": m, "weight": 0.7}
    options = {"overlap": "forbid", "consensus": "sum", "conflict_aware": True, "balanced": True}
    problem = Problem("t", (part,), part, code, (code,) * models, code, options, (own,) * models)
    program = find("cabs").program(problem)
    out = np.empty(sources[0].nbytes, np.uint8)
    size = sources[0].itemsize
    views = [source.view(np.uint8) for source in sources]
    for view in views:
        view.flags.writeable = False
    chunks = []
    for index in range(threads):
        base, *others = (view[index * part * size : (index + 1) * part * size] for view in views)
        chunks.append(Chunk(0, 0, part, 0, base, tuple(others)))
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        parts = (out[index * part * size : (index + 1) * part * size] for index in range(threads))
        list(pool.map(lambda pair: program.apply(pair[0], None, pair[1]), zip(chunks, parts, strict=True)))

    return run


def memcpy(sources: Sources, threads: int) -> Callable[[], None]:
    """Make a call that copies, half in and half out, as many bytes as the kernel reads and writes."""
    moved = sum(source.nbytes for source in sources) + sources[0].nbytes
    part = moved // 2 // threads
    source, target = np.ones(part * threads, np.uint8), np.empty(part * threads, np.uint8)
    pool = ThreadPoolExecutor(threads)

    def copy(index: int) -> None:
        np.copyto(target[index * part : (index + 1) * part], source[index * part : (index + 1) * part])

    return lambda: list(pool.map(copy, range(threads))).clear()


def torch_cabs(sources: Sources, n: int, m: int, threads: int) -> Callable[[], None] | None:
    """Make a call that computes the same with torch; None where torch is missing."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    kinds = {2: torch.bfloat16 if sources[0].dtype != np.float16 else torch.float16, 4: torch.float32}
    kind = kinds[sources[0].itemsize]
    whole = sources[0].size // m * m
    tensors = [torch.from_numpy(source[:whole].view(f"i{source.itemsize}")).view(kind) for source in sources]

    def run() -> None:
        base = tensors[0].float()
        merged, claimed = torch.zeros_like(base), torch.zeros(base.shape, dtype=torch.bool)
        for tensor in tensors[1:]:
            delta = tensor.float() - base
            free = delta.abs().masked_fill_(claimed, 0)
            best = free.view(-1, m).topk(n, dim=1, sorted=False).indices
            keep = torch.zeros((whole // m, m), dtype=torch.bool).scatter_(1, best, True).view(-1) & (free > 0)
            merged += torch.where(keep, delta * 0.7, 0)
            claimed |= keep
        (base + merged).to(kind)

    return run


def measure(contestants: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Run all in turn and give the shortest time of each in seconds; the first round is not counted."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn, (name, run) in itertools.product(range(repeats + 1), contestants.items()):
        began = time.perf_counter()
        run()
        if turn:
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 22, help="elements of the tensor [4 Mi]")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each contestant [7]")
    parser.add_argument("--no-torch", action="store_true", help="leave torch out, which takes most of the time")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    cases = [("bfloat16", 2, block) for block in (*BLOCKS, *UNUSUAL)]
    cases += [(dtype, 2, (64, 256)) for dtype in ("float16", "float32")] + [("float32", 2, (2, 4))]
    cases += [("bfloat16", models, (64, 256)) for models in (1, 4)]
    results, rows = [], []
    for dtype, models, (n, m) in cases:
        code, kind = DTYPES[dtype]
        sources = make_sources(models, args.elements, kind)
        contestants: dict[str, Callable[[], None]] = {}
        for threads in dict.fromkeys((1, cores)):
            contestants[f"kernel {threads}"] = kernel(sources, code, n, m, threads)
            contestants[f"memcpy {threads}"] = memcpy(sources, threads)
        found = measure(contestants, args.repeats)
        peer = None if args.no_torch else torch_cabs(sources, n, m, cores)
        if peer is not None:
            found |= measure({f"torch {cores}": peer}, 2)
        nanoseconds = {name: seconds / args.elements * 1e9 for name, seconds in found.items()}
        results.append({"dtype": dtype, "models": models, "n": n, "m": m, "ns_per_element": nanoseconds})
        many, torch_ns = nanoseconds[f"kernel {cores}"], nanoseconds.get(f"torch {cores}")
        rows.append(
            (
                f"{n}:{m} {dtype}, {models} model{'s' if models > 1 else ''}",
                f"{nanoseconds['kernel 1']:.2f}",
                f"{many:.2f}",
                f"{nanoseconds['kernel 1'] / many:.2f}",
                f"{many / nanoseconds[f'memcpy {cores}']:.1f}",
                "-" if torch_ns is None else f"{torch_ns:.1f}",
                "-" if torch_ns is None else f"{torch_ns / many:.0f}x",
            )
        )
    columns = ("", "1 thread, ns", f"{cores} threads, ns", "speed-up", "of memcpy", "torch, ns", "faster than torch")
    print_table(f"CABS kernel, nanoseconds an element of output, {args.elements:,} elements", columns, rows)
    usual = [case["ns_per_element"]["kernel 1"] for case in results[: len(BLOCKS)]]
    print(f"\nDearest over cheapest of {BLOCKS[0]} to {BLOCKS[-1]}: {max(usual) / min(usual):.2f}")
    write_results("kernels", results)


if __name__ == "__main__":
    main()

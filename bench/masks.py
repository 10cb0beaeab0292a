"""Random masks and ranks of rows: nanoseconds an element of each kernel, and of the passes of dare and della.

    python bench/masks.py

One thread, memory to memory. The kernels work on one row length after another; the passes on a base model and two
fine-tunes, chunk by chunk, as a merge runs them: first the sums of magnitudes, then the output, with the marks held
from the first pass and made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from report import print_table, write_results

from dovetail.engine.kernels.convert import BF16, F32
from dovetail.engine.kernels.kept_magnitudes import add_magnitudes
from dovetail.engine.kernels.marks import mark_above, take_bits
from dovetail.engine.kernels.packing import pack_bits
from dovetail.engine.kernels.philox import random_marks, random_words
from dovetail.engine.kernels.rank_scratch import BINS
from dovetail.engine.kernels.ranks import mark_by_rank
from dovetail.engine.kernels.sums import LANES
from dovetail.engine.methods.program import Chunk, Problem
from dovetail.engine.methods.registry import find

ROWS = (64, 512, 2048, 4096, 8192, 14_336, 28_672, 65_536)
DTYPES: dict[str, tuple[int, Any]] = {"bfloat16": (BF16, ml_dtypes.bfloat16), "float32": (F32, np.float32)}
CHUNK = 1 << 21
COLUMNS = 4096


def make_sources(elements: int, kind: Any, models: int = 2) -> list[NDArray[Any]]:
    """Draw a base model and fine-tunes with heavy-tailed changes, some of them too small for the dtype."""
    random = np.random.default_rng(0)
    base = (random.standard_normal(elements, np.float32) * np.float32(0.02)).astype(kind)
    changes = (random.standard_t(3, elements).astype(np.float32) * np.float32(2e-4) for _ in range(models))
    return [base, *((base.astype(np.float32) + change).astype(kind) for change in changes)]


def fastest(run: Callable[[], Any], elements: int, repeats: int) -> float:
    """Give the least processor time of several runs, in nanoseconds an element; the first run is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return min(seconds) / elements * 1e9


def kernels(kind: Any, repeats: int) -> dict[str, float]:
    """Time each kernel on a stretch of 65,536 elements."""
    size = 1 << 16
    base, tuned = make_sources(size, kind, 1)
    tau = tuned.astype(np.float32) - base.astype(np.float32)
    key, words, mask = np.array((1, 2), np.uint64), np.empty(size, np.uint32), np.empty(size, np.uint8)
    counts, lanes = np.zeros(BINS, np.uint32), np.zeros((2, LANES))
    zeros = np.zeros(size, np.float32)
    bits, line = np.zeros(size // 8, np.uint8), np.zeros(size // 8, np.uint8)
    runs: dict[str, Callable[[], Any]] = {
        "random words": lambda: random_words(key, 1, 0, words),
        "marks at random": lambda: random_marks(key, (1, 0), size, 2.0**31, line),
        "marks of what is not zero": lambda: mark_above(zeros, tau, size, (0, 0), 0, line),
        "both sums of magnitudes": lambda: add_magnitudes(zeros, tau, line, size, lanes, True),
        "marks to bits": lambda: pack_bits(mask, 0, bits),
        "bits of a run": lambda: take_bits(bits, 3, size - 8, line),
    }
    found = {name: fastest(run, size, repeats) for name, run in runs.items()}
    for row in ROWS:
        whole = size // row * row

        def ranked(row: int = row, whole: int = whole) -> None:
            mark_by_rank(tau[:whole], row, (0.5, 0.15), words[:whole], mask[:whole], counts)

        found[f"marks by rank, rows of {row:,}"] = fastest(ranked, whole, repeats)
    return found


def passes(method: str, code: int, sources: list[NDArray[Any]], repeats: int) -> dict[str, float]:
    """Time the passes of a method over a matrix, an element of the output."""
    elements, size = sources[0].size, sources[0].itemsize
    row = find(method)
    whole = {each.name: each.default for each in row.parameters if each.scope == "merge"}
    own = {each.name: each.default for each in row.parameters if each.scope == "model"}
    each = ({**own, "weight": 0.5, "density": 0.5},) * (len(sources) - 1)
    shape = elements // COLUMNS, COLUMNS
    problem = Problem("t", shape, elements, code, (code,) * len(each), code, whole, each)
    views = [source.view(np.uint8) for source in sources]
    for view in views:
        view.flags.writeable = False
    program: Any = row.program(problem)
    out, chunks = np.empty(elements * size, np.uint8), []
    for index, start in enumerate(range(0, elements, CHUNK)):
        stop = min(elements, start + CHUNK)
        low, high = program.window(start, stop)
        base, *models = (view[low * size : high * size] for view in views)
        chunks.append(Chunk(index, start, stop, low, base, tuple(models)))

    def reduce(program: Any) -> Any:
        accumulator = program.begin(0, None)
        for chunk in chunks:
            accumulator = program.fold(0, accumulator, program.reduce(0, chunk, None))
        return program.finish(0, accumulator, None)

    def apply(program: Any, state: Any) -> None:
        for chunk in chunks:
            program.apply(chunk, state, out[chunk.start * size : chunk.stop * size])

    held, again = reduce(program.holding()), reduce(program)
    return {
        "sums of magnitudes": fastest(lambda: reduce(program.holding()), elements, repeats),
        "output, marks held": fastest(lambda: apply(program, held), elements, repeats),
        "output, marks made again": fastest(lambda: apply(program, again), elements, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=1024, help=f"rows of {COLUMNS:,} elements that passes go over [1024]"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each [5]")
    args = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name, (code, kind) in DTYPES.items():
        results[name] = kernels(kind, args.repeats)
        sources = make_sources(args.rows * COLUMNS, kind)
        for method in ("dare_ties", "della"):
            found = passes(method, code, sources, args.repeats)
            results[name] |= {f"{method}, 2 models: {part}": value for part, value in found.items()}
    rows = [(part, *(f"{results[name][part]:.2f}" for name in DTYPES)) for part in results["bfloat16"]]
    print_table("Random masks and ranks, nanoseconds an element, one thread", ("", *DTYPES), rows)
    write_results("masks", results)


if __name__ == "__main__":
    main()

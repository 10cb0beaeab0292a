"""Finding the strongest elements of a tensor: a sample and one pass beside three passes that count digits.

    python bench/selection.py                 # cost by length, dtype and likeness; about two minutes
    python bench/selection.py --draws 500     # how often brackets miss

Both ways work on the same values, in turn, in one process and on one thread, from memory. A figure is nanoseconds for
each element and model of everything that happens before the apply pass. "Alike" is the standard deviation of the
logarithm of the rows' scales: rows of real fine-tunes differ by 0.1 to 0.2.
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
from dovetail.engine.methods.program import Chunk, Problem, Program, sample_chunk
from dovetail.engine.methods.registry import find
from dovetail.engine.methods.sample import Sample, runs

CASES = [
    (length, name, alike, density)
    for name in ("bfloat16", "float32")
    for length in (1 << 20, 1 << 22, 1 << 24, 58_720_256)
    for alike in (0.15,)
    for density in (0.2,)
] + [(1 << 24, "bfloat16", alike, density) for alike, density in ((0.0, 0.2), (0.3, 0.2), (0.15, 0.05), (0.15, 0.7))]
DTYPES: dict[str, tuple[int, Any]] = {"bfloat16": (BF16, ml_dtypes.bfloat16), "float32": (F32, np.float32)}
CHUNK_BYTES = 1 << 24
COLUMNS = 4096

Sources = list[NDArray[np.uint8]]


def make_sources(length: int, dtype: Any, alike: float, models: int = 2) -> Sources:
    """Draw a base model's tensor and fine-tunes, with rows of different scales."""
    random = np.random.default_rng(0)
    base = random.standard_normal(length, np.float32) * np.float32(0.02)
    found = [base.astype(dtype).view(np.uint8)]
    for _ in range(models):
        scales = 1e-3 * np.exp(alike * random.standard_normal(-(-length // COLUMNS)))
        change = random.standard_normal(length, np.float32)
        change *= np.repeat(scales.astype(np.float32), COLUMNS)[:length]
        found.append((base + change).astype(dtype).view(np.uint8))
    return found


def search(program: Program, sources: Sources, length: int) -> tuple[Any, int]:
    """Run the reduce passes as the engine does; give the state, and how many read every chunk."""
    itemsize = sources[0].size // length
    state, passes = None, 0
    for step in range(program.reduce_passes):
        reads = program.reads(step, state)
        if reads is not None and not reads:
            continue
        passes += reads is None
        accumulator = program.begin(step, state)
        chunks = [_sample(sources, reads, itemsize)] if reads else _chunks(sources, length, itemsize)
        for chunk in chunks:
            accumulator = program.fold(step, accumulator, program.reduce(step, chunk, state))
        state = program.finish(step, accumulator, state)
    return state, passes


def _chunks(sources: Sources, length: int, itemsize: int) -> list[Chunk]:
    found = []
    chunk = CHUNK_BYTES // (itemsize * (len(sources) + 1))
    for index, start in enumerate(range(0, length, chunk)):
        stop = min(length, start + chunk)
        base, *models = (source[start * itemsize : stop * itemsize] for source in sources)
        found.append(Chunk(index, start, stop, start, base, tuple(models)))
    return found


def _sample(sources: Sources, reads: Any, itemsize: int) -> Chunk:
    base, *models = (
        np.concatenate([source[start * itemsize : stop * itemsize] for start, stop in reads]) for source in sources
    )
    return sample_chunk(reads, base, models)


def compare(length: int, name: str, alike: float, density: float, repeats: int) -> dict[str, Any]:
    """Time both ways on one tensor."""
    code, dtype = DTYPES[name]
    sources = make_sources(length, dtype, alike)
    own = {"density": density, "weight": 0.7}
    defaults = {row.name: row.default for row in find("ties").parameters if row.scope == "merge"}
    problem = Problem("t", (length,), length, code, (code,) * 2, code, defaults, (own,) * 2)
    program = find("ties").program(problem)
    ways = {"sample": program, "digits": program.frugal()}
    found = {way: search(each, sources, length) for way, each in ways.items()}
    assert found["sample"][0].rules == found["digits"][0].rules
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, each in ways.items():
            times[way].append(_seconds(lambda each=each: search(each, sources, length)))
    ratios = [digits / sample for sample, digits in zip(times["sample"], times["digits"], strict=True)]
    figures = {way: float(np.median(each)) / length / 2 * 1e9 for way, each in times.items()}
    return {
        "length": length,
        "dtype": name,
        "alike": alike,
        "density": density,
        "passes": found["sample"][1],
        **{f"{way}_ns": figure for way, figure in figures.items()},
        "ratios": ratios,
    }


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def draw(count: int, seed: int = 0) -> dict[str, Any]:
    """Draw tensors, and count the brackets that miss; give their mean share of the elements too."""
    random = np.random.default_rng(seed)
    missed = tried = 0
    shares = []
    for _ in range(count):
        rows = random.integers(128, 4096)
        scales = np.exp(random.uniform(0.0, 0.5) * random.standard_normal((rows, 1), np.float32))
        values = random.standard_normal((rows, COLUMNS), np.float32) * scales
        if random.random() < 0.5:  # as of fine-tunes in 16 bits: many equal changes, and many zeros
            values = np.round(values * 8) / 8
        magnitudes = np.abs(values).reshape(-1).view(np.uint32)
        taken = Sample(
            np.concatenate([magnitudes[start:stop] for start, stop in runs(magnitudes.size)]), magnitudes.size
        )
        for share in random.uniform(0.001, 0.999, 8):
            low, high = taken.bracket(share)
            rank = int(share * magnitudes.size)
            above, inside = np.count_nonzero(magnitudes > high), np.count_nonzero(magnitudes >= low)
            nonzero = np.count_nonzero(magnitudes)
            missed += not (above < rank <= inside or rank >= nonzero)
            tried += 1
            shares.append((inside - above) / magnitudes.size)
    return {"brackets": tried, "missed": missed, "share": float(np.mean(shares))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=0, help="tensors to draw, to count brackets that miss")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way [5]")
    args = parser.parse_args()
    if args.draws:
        found = draw(args.draws)
        print(
            f"{found['missed']} of {found['brackets']} brackets missed; they hold {found['share']:.2%} of the elements"
        )
        write_results("selection-draws", found)
        return
    rows = [compare(*case, args.repeats) for case in CASES]
    print_table(
        "Passes before the apply pass",
        ("elements", "dtype", "alike", "density", "passes", "ns, by sample", "ns, by digits", "times faster"),
        [
            (
                f"{row['length']:,}",
                row["dtype"],
                f"{row['alike']}",
                f"{row['density']}",
                str(row["passes"]),
                f"{row['sample_ns']:.2f}",
                f"{row['digits_ns']:.2f}",
                f"{np.median(row['ratios']):.1f} ({min(row['ratios']):.1f} to {max(row['ratios']):.1f})",
            )
            for row in rows
        ],
    )
    write_results("selection", {"chunk_bytes": CHUNK_BYTES, "rows": rows})


if __name__ == "__main__":
    main()

"""Methods alone, in memory: processor time of all their passes, an element and source, by dtype.

    python bench/passes.py

One thread computes one tensor as one chunk, so that neither files nor the start of the program count. A figure is the
least of several runs, in nanoseconds of processor time for each element of each tensor that is read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from kernels import DTYPES, make_sources
from report import print_table, write_results

from dovetail.engine.methods.program import Chunk, Problem, reduce_whole
from dovetail.engine.methods.registry import find

CASES: tuple[tuple[str, str, bool, int, Mapping[str, Any]], ...] = (
    ("linear", "linear", False, 3, {}),
    ("slerp", "slerp", True, 1, {"t": 0.4}),
    ("nuslerp", "nuslerp", True, 2, {}),
    ("nuslerp by rows", "nuslerp", True, 2, {"nuslerp_flatten": False}),
    ("multislerp", "multislerp", True, 2, {}),
    ("karcher", "karcher", False, 3, {}),
    ("model_stock", "model_stock", True, 2, {}),
    ("model_stock by rows", "model_stock", True, 2, {"filter_wise": True}),
    ("task_arithmetic", "task_arithmetic", True, 2, {}),
    ("ties, density 1", "ties", True, 2, {"density": 1.0}),
    ("ties, density 0.5", "ties", True, 2, {"density": 0.5}),
    ("dare_ties, density 0.5", "dare_ties", True, 2, {"density": 0.5}),
)
"""Title, method, whether there is a base model, models, and parameters, which are the same for every model."""


def measure(
    method: str,
    based: bool,
    models: int,
    given: Mapping[str, Any],
    code: int,
    kind: Any,
    shape: tuple[int, int],
    repeats: int,
) -> float:
    """Run all passes over one tensor, and give the nanoseconds of an element and source."""
    sources = [each.view(np.uint8) for each in make_sources(models if based else models - 1, shape[0] * shape[1], kind)]
    for each in sources:
        each.flags.writeable = False
    base, others = (sources[0], sources[1:]) if based else (None, sources)
    row, length = find(method), shape[0] * shape[1]
    parameters = {each.name: given.get(each.name, each.default) for each in row.parameters}
    merge = {each.name: parameters[each.name] for each in row.parameters if each.scope == "merge"}
    own = {each.name: parameters[each.name] for each in row.parameters if each.scope == "model"}
    if "weight" in own:
        own["weight"] = 0.6
    codes = (code,) * models
    problem = Problem("t", shape, length, code if based else None, codes, code, merge, (own,) * models)
    program = row.program(problem)
    chunk, out = Chunk(0, 0, length, 0, base, tuple(others)), np.empty(sources[0].nbytes, np.uint8)
    best = float("inf")
    for turn in range(repeats + 1):
        began = time.thread_time()
        program.apply(chunk, reduce_whole(program, chunk), out)
        if turn:  # the first may compile
            best = min(best, time.thread_time() - began)
    return best / length / len(sources) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048, help="rows of the tensor, of 2048 elements each [2048]")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each case [7]")
    args = parser.parse_args()
    found = {
        title: {
            name: measure(method, based, models, given, code, kind, (args.rows, 2048), args.repeats)
            for name, (code, kind) in DTYPES.items()
        }
        for title, method, based, models, given in CASES
    }
    rows = [(title, *(f"{value:.2f}" for value in each.values())) for title, each in found.items()]
    print_table("Nanoseconds of processor time an element and source, all passes", ("", *DTYPES), rows)
    write_results("passes", found)


if __name__ == "__main__":
    main()

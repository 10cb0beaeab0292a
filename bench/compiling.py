"""Compiling: what a first merge waits for, by method and number of models.

    python bench/compiling.py                           # ties, 1 to 48 models: two to five minutes
    python bench/compiling.py --method dare_ties --models 2 12

Each figure is of a process of its own with an empty cache: seconds of processor time in which all kernels of a merge
are compiled, and the most memory that the process held. Merges compile in such a process too (`run.warm`).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

from report import print_table, write_results

DENSE = {"density": 0.2, "weight": 0.7}


def compile_kernels(method: str, models: int) -> None:
    """Compile what a merge of so many models in bfloat16 needs, and print the seconds and the most bytes."""
    from dovetail.engine.kernels.convert import BF16
    from dovetail.engine.methods.program import Problem
    from dovetail.engine.methods.registry import find
    from dovetail.engine.run.warm import _try_all, trials

    rows = find(method).parameters
    whole, own = ({row.name: row.default for row in rows if row.scope == scope} for scope in ("merge", "model"))
    own |= {name: value for name, value in DENSE.items() if name in own}
    codes, shape = (BF16,) * models, (4096, 4096)
    problem = Problem("w", shape, shape[0] * shape[1], BF16, codes, BF16, whole, (own,) * models)
    needed, began = trials(method, [problem]), time.process_time()
    _try_all(needed)
    print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


def measure(method: str, models: int) -> tuple[float, int]:
    """Do so in a process with an empty cache; give the seconds and the bytes."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--method", method, "--compile", str(models)],
            env={**os.environ, "NUMBA_CACHE_DIR": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    seconds, size_bytes = done.stdout.split()
    return float(seconds), int(size_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ties", help="merge method [ties]")
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 12, 24, 48], help="numbers of models")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile is not None:
        compile_kernels(args.method, args.compile)
        return
    rows = [(models, *measure(args.method, models)) for models in args.models]
    print_table(
        f"Compiling the kernels of {args.method}",
        ("models", "CPU s", "MiB"),
        [(str(models), f"{seconds:.1f}", f"{size >> 20}") for models, seconds, size in rows],
    )
    write_results("compiling", {"method": args.method, "rows": rows})


if __name__ == "__main__":
    main()

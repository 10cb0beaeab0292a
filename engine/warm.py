"""Compiling the kernels that a plan needs before its first task, and only those.

Compiled kernels are cached on disk. A kernel that is not in the cache yet is compiled in a child process, so that the
compiler's memory is never this process's: afterwards it is loaded like any other.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numba.core import event

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.methods.program import Chunk, Problem
from dovetail.engine.methods.registry import find
from dovetail.io.adapters import kernels

LARGEST_TRIAL_ELEMENTS = 1 << 18
"""Most elements of a tensor on which kernels are tried."""

Trial = tuple[str, Problem]
"""A method's name and a small problem that uses the same kernels as a tensor of the plan."""


class _CompilationNeeded(Exception):  # a signal, not an error
    """A kernel is not in the cache."""


class _Refuse(event.Listener):
    """Stops numba as soon as it begins to compile rather than load."""

    def on_start(self, event: Any) -> None:
        raise _CompilationNeeded

    def on_end(self, event: Any) -> None:
        """Take no notice."""


def trials(method: str, problems: Iterable[Problem]) -> list[Trial]:
    """Give one small problem for every combination of kernels that `problems` use."""
    found: dict[Any, Trial] = {}
    for problem in problems:
        # Kernels differ by the number of models, the method's switches and its block lengths; dtypes are codes.
        switches = tuple(item for item in sorted(problem.parameters.items()) if isinstance(item[1], str | bool))
        counts = [value for each in problem.model_parameters for value in each.values() if type(value) is int]
        key = (problem.base_code is None, len(problem.model_codes), switches, tuple(counts))
        if key not in found:
            length = min(LARGEST_TRIAL_ELEMENTS, max(64, 2 * max(counts, default=0)))
            found[key] = (method, replace(problem, shape=(length,), length=length))
    return list(found.values())


def warm_up(needed: Sequence[Trial], compiling: Callable[[], None], *, adapters: bool = False) -> None:
    """Load every kernel that the trials need, compiling those not cached yet.

    Parameters
    ----------
    needed
        From `trials`.
    compiling
        Called once if something has to be compiled, which takes seconds.
    adapters
        Whether the kernels that apply adapters are needed too.

    """
    try:
        with event.install_listener("numba:compile", _Refuse()):
            _try_all(needed, adapters)
    except _CompilationNeeded:
        compiling()
        _compile_in_child(needed, adapters)
        _try_all(needed, adapters)


def _compile_in_child(needed: Sequence[Trial], adapters: bool) -> None:
    """Fill the cache; if the child fails, the kernels are compiled here, at the cost of memory."""
    subprocess.run(
        [sys.executable, "-P", "-m", "dovetail.engine.warm"],  # -P: nothing in the current folder is imported
        input=pickle.dumps((list(needed), adapters)),
        env={**os.environ, "NUMBA_CACHE_DIR": settings.CACHE_DIR},  # where it may be a folder made for this run
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _try_all(needed: Sequence[Trial], adapters: bool) -> None:
    """Run every pass of each trial on zeros."""
    if adapters:
        kernels.compile_all()
    for method, problem in needed:
        program = find(method).program(problem)
        low, high = program.window(0, problem.length)
        read_only = [np.zeros((high - low) * ITEMSIZES[code], np.uint8) for code in problem.model_codes]
        base = None
        if problem.base_code is not None:
            base = np.zeros((high - low) * ITEMSIZES[problem.base_code], np.uint8)
        for array in (*read_only, *(() if base is None else (base,))):
            array.flags.writeable = False
        chunk = Chunk(0, 0, problem.length, low, base, tuple(read_only))
        state: Any = None
        for step in range(program.reduce_passes):
            state = program.combine(step, [program.reduce(step, chunk, state)], state)
        program.apply(chunk, state, np.zeros(problem.length * ITEMSIZES[problem.out_code], np.uint8))


if __name__ == "__main__":
    _try_all(*pickle.loads(sys.stdin.buffer.read()))

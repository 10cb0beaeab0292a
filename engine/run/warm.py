"""Loading the kernels that a plan needs, and no others, before its first task.

Compiled kernels are cached on disk. A kernel that is not in the cache yet is compiled by a child process, so that the
compiler takes no memory of this process, which then loads the kernel from the cache.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba.core import event

from dovetail.engine.kernels.cache import FOLDER
from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.methods.decoding import STRETCH
from dovetail.engine.methods.outputs import apply_to
from dovetail.engine.methods.program import Bytes, Chunk, Problem, reduce_whole
from dovetail.engine.methods.registry import find_any
from dovetail.engine.run.compiling import one_compiler
from dovetail.io.dtypes import DTYPES

COMPILING: Final = "Compiling kernels for this machine; later runs find them in the cache."
WAITING: Final = "Another process is compiling kernels for this machine; waiting for it."

LARGEST_TRIAL_ELEMENTS = 1 << 18
"""Most elements of a tensor on which kernels are tried."""

Trial = tuple[str, Problem] | Callable[[], None]
"""A method's name and a small problem that uses the same kernels as a tensor of the plan; or a function that calls the
kernels of some module."""


class _CompilationNeeded(Exception):  # a signal, not an error
    """A kernel is not in the cache."""


class _Refuse(event.Listener):
    """Raises `_CompilationNeeded` when numba begins to compile a kernel, which it does only if it cannot load it."""

    def on_start(self, event: Any) -> None:
        raise _CompilationNeeded

    def on_end(self, event: Any) -> None:
        """Do nothing when a compilation ends."""


def trials(method: str, problems: Iterable[Problem]) -> list[Trial]:
    """Make one small problem for every combination of kernels that `problems` use."""
    found: dict[Any, Trial] = {}
    seen = set()
    for problem in problems:
        # Equal parameters are mostly the same objects, so that comparing identities settles most problems quickly.
        count, dimensions = len(problem.model_codes), min(3, len(problem.shape))
        long = dimensions > 1 and problem.shape[-1] > STRETCH  # such rows can need other kernels
        given = (id(problem.parameters), *map(id, problem.model_parameters))
        if (quick := (given, problem.base_code is None, count, dimensions, long)) in seen:
            continue
        seen.add(quick)
        counts = [value for each in problem.model_parameters for value in each.values() if type(value) is int]
        length = min(LARGEST_TRIAL_ELEMENTS, max(64, 2 * max(counts, default=0)))
        shape: tuple[int, ...] = (length,)
        if dimensions > 1:  # with as many rows and columns as models: fewer can be a case of its own
            rows, columns = max(2, 0 if long else count), max(length // 2, count, STRETCH + 1 if long else 0)
            shape = (rows, *(1,) * (dimensions - 2), columns)
        trial = replace(problem, shape=shape, length=prod(shape))
        # Kernels differ by the number of models, the parts of the program and its switches; dtypes are codes.
        key = (trial.base_code is None, count, long, tuple(counts), _parts(find_any(method).program(trial)))
        found.setdefault(key, (method, trial))
    return list(found.values())


def _parts(value: Any) -> Any:
    """Describe a program by its type and switches and those of its parts, but by none of its numbers."""
    if is_dataclass(value):
        return type(value), tuple(_parts(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple):
        return tuple(dict.fromkeys(map(_parts, value)))
    return value if isinstance(value, bool) else type(value)


def warm_up(needed: Sequence[Trial], tell: Callable[[str], None]) -> None:
    """Load every kernel that the trials need, and compile those that are not in the cache.

    Of several processes that need the same ones at the same time, one compiles them.

    Parameters
    ----------
    needed
        The trials, as `trials` makes them.
    tell
        Called before kernels are compiled, or another process is waited for, which takes seconds, with what to say.

    """
    if _are_cached(needed):
        return
    with one_compiler(_lock_path(needed), lambda: _are_cached(needed), lambda: tell(WAITING)) as alone:
        if alone:
            tell(COMPILING)
            _compile_in_child(needed)
            _try_all(needed)


def _are_cached(needed: Sequence[Trial]) -> bool:
    """Load every kernel, and give whether all are in the cache."""
    try:
        with event.install_listener("numba:compile", _Refuse()):
            _try_all(needed)
    except _CompilationNeeded:
        return False
    return True


def _lock_path(needed: Sequence[Trial]) -> Path:
    """Give the file whose lock says that a process compiles these kernels, or others whose digest begins alike."""
    digest = hashlib.sha256(pickle.dumps(list(needed))).hexdigest()
    return Path(FOLDER) / f"compiling-{digest[:2]}.lock"


def _compile_in_child(needed: Sequence[Trial]) -> None:
    """Compile kernels into the cache; if the child process fails, this process compiles them, which takes memory."""
    subprocess.run(
        [sys.executable, "-P", "-m", "dovetail.engine.run.warm"],  # -P: nothing in the current folder is imported
        input=pickle.dumps(list(needed)),
        env={**os.environ, "NUMBA_CACHE_DIR": FOLDER},  # the cache may be a folder made for this run alone
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _try_all(needed: Sequence[Trial]) -> None:
    """Run every pass of each trial on made-up values, which differ between elements and between models."""
    for trial in needed:
        if callable(trial):
            trial()
            continue
        method, problem = trial
        row = find_any(method)
        if row.trial is not None:
            row.trial(problem)
            continue
        program = row.program(problem)
        low, high = program.window(0, problem.length)
        read_only = [_values(high - low, code, 1 + model) for model, code in enumerate(problem.model_codes)]
        base = None if problem.base_code is None else _values(high - low, problem.base_code, 0)
        for array in (*read_only, *(() if base is None else (base,))):
            array.flags.writeable = False
        chunk = Chunk(0, 0, problem.length, low, base, tuple(read_only))
        apply_to(program, chunk, reduce_whole(program, chunk), _buffers(method, problem))


def _buffers(method: str, problem: Problem) -> list[Bytes]:
    """Make a buffer for every output of a problem."""
    outputs = find_any(method).outputs
    itemsize = ITEMSIZES[problem.out_code]
    if outputs is None:
        return [np.zeros(problem.length * itemsize, np.uint8)]
    sizes = [
        (each.length, itemsize if each.dtype is None else DTYPES[each.dtype].itemsize) for each in outputs(problem)
    ]
    return [np.zeros(length * size, np.uint8) for length, size in sizes]


def _values(count: int, code: int, shift: int) -> Bytes:
    """Make bytes that are finite numbers in any dtype: each is below 60, so that no exponent has all bits set."""
    return ((np.arange(count * ITEMSIZES[code]) * 7 + 13 * shift) % 59).astype(np.uint8)


if __name__ == "__main__":
    _try_all(pickle.loads(sys.stdin.buffer.read()))

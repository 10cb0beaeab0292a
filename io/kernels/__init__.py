"""Compiled kernels of readers; they import nothing of ours outside this folder.

Each is one function that calls no other compiled one, so numba itself sees when cached code is out of date. The code is
kept where the engine keeps its own, or, without the engine, where numba keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., None]) -> Any:
    """Compile a kernel when it is first called: without the interpreter's lock, without fast-math."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep the code: no folder can be written
        return njit(nogil=True)(function)

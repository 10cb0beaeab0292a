"""Linear algebra on one thread for each caller, so that results do not depend on the number of cores.

A library's number of threads belongs to the whole process as a rule, and several tasks compute at once: the first that
begins lowers it, and the last that ends restores it. With OpenMP it belongs to each thread, which sets its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

_lock = threading.Lock()
_holders = 0
_before: Sequence[int] = ()

# A process that is forked while another thread has the lock would wait for it forever.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@functools.cache
def _libraries() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Find the libraries whose number of threads belongs to the process, and those where it belongs to each thread."""
    from threadpoolctl import ThreadpoolController  # recipes are read without it

    found = [each for each in ThreadpoolController().lib_controllers if each.user_api == "blas"]
    own = tuple(each for each in found if getattr(each, "threading_layer", "") == "openmp")
    return tuple(each for each in found if each not in own), own


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold the linear algebra libraries to one thread for each caller, whoever else holds them."""
    global _holders, _before
    shared, own = _libraries()
    with _lock:
        if _holders == 0:
            _before = _set(shared, [1] * len(shared))
        _holders += 1
    mine = _set(own, [1] * len(own))
    try:
        yield
    finally:
        _set(own, mine)
        with _lock:
            _holders -= 1
            if _holders == 0:
                _set(shared, _before)


def _set(libraries: Sequence[Any], counts: Sequence[int]) -> list[int]:
    """Set numbers of threads, and give those that were set before."""
    before = []
    for library, count in zip(libraries, counts, strict=True):
        before.append(library.num_threads)
        # Newer versions let only the thread that first sets the number change it, and ignore all others.
        free = getattr(library, "clear_controlling_thread", lambda force: None)
        free(force=True)
        library.set_num_threads(count)
        free(force=True)
    return before

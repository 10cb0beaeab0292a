"""What the threads of a run share, found without being passed on: one object for each run, and one outside of any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class PerRun(Generic[T]):
    """Holds the object of the run for which the current thread works, or else the one for work outside of any run.

    A forked process begins with a new object for work outside of any run: a thread that held a lock of the old one when
    the process forked is not in the new process.

    Parameters
    ----------
    name
        What is shared, for people who look at context variables.
    make
        Makes the object for work outside of any run.

    """

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._make, self._outside = make, make()
        self._of_run: ContextVar[T | None] = ContextVar(name, default=None)
        os.register_at_fork(after_in_child=self._begin_anew)

    def current(self) -> T:
        """Give the object that `using` has set for this thread, or else the one for work outside of any run."""
        found = self._of_run.get()
        return self._outside if found is None else found

    @contextlib.contextmanager
    def using(self, shared: T) -> Iterator[None]:
        """Let this thread use the object of a run, until the end of the block."""
        token = self._of_run.set(shared)
        try:
            yield
        finally:
            self._of_run.reset(token)

    def _begin_anew(self) -> None:
        self._outside = self._make()
        self._of_run.set(None)

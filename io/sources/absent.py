"""Tensors that are not there: they stand in plans, by their length alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import checked_source


@checked_source
@dataclass(frozen=True, slots=True)
class AbsentSource:
    """A tensor that is not there, or not yet: it has a length and can stand in plans, but cannot be read."""

    length: int
    """Number of elements."""
    itemsize: int
    """Size of one element in bytes."""
    why: str
    """Why it cannot be read, for whoever finds a plan that is carried out all the same."""
    copies: bool = False
    """Whether reading it will copy its elements, once it is there."""
    scratch_bytes: int = 0
    """Most memory that one read will take besides the bytes that it returns, in bytes."""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Give what a tensor without elements has; no plan that is carried out reads another one."""
        if self.length:
            raise AssertionError(self.why)
        return np.empty(0, np.uint8)

    def prefetch(self, start: int, stop: int) -> None:
        """Do nothing, because there is nothing to read."""

    def populate(self, start: int, stop: int) -> bool:
        """Do nothing, and say that nothing was held in memory."""
        return False

    def release(self, start: int, stop: int) -> None:
        """Do nothing, because nothing was held in memory."""

    def mapped_bytes(self, start: int, stop: int) -> None:
        """Give None, because there is no file."""

    def decoding(self, start: int, stop: int) -> None:
        """Give None, because there are no chunks."""

    def stored_objects(self) -> None:
        """Give None, because nothing is stored."""

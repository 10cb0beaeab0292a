"""A source with elements in memory, which tests wrap, and on which other sources for tests build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.io.source import Decoding, MappedBytes, StoredObjects, checked_source, out_of_range


@checked_source
@dataclass(frozen=True, eq=False)
class HeldSource:
    """Elements in memory; what it says about copying, scratch memory and decoding is set by the test."""

    values: NDArray[Any]
    """The elements, of any shape."""
    copies: bool = False
    """Whether it says that it copies."""
    scratch_bytes: int = 0
    """What it says that a read takes."""
    decoded: Decoding | None = None
    """What it says of every range that reading it decodes."""

    @property
    def length(self) -> int:
        return self.values.size

    @property
    def itemsize(self) -> int:
        return self.values.itemsize

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        data: NDArray[np.uint8] = self.values.reshape(-1)[start:stop].view(np.uint8)
        data.flags.writeable = False
        return data

    def prefetch(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop <= self.length

    def populate(self, start: int, stop: int) -> bool:
        assert 0 <= start <= stop <= self.length
        return True

    def release(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop <= self.length

    def mapped_bytes(self, start: int, stop: int) -> MappedBytes | None:
        return None

    def decoding(self, start: int, stop: int) -> Decoding | None:
        return self.decoded

    def stored_objects(self) -> StoredObjects | None:
        return None

"""Tensors that are in memory already."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

from dovetail.io.sources.array import ArraySource
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.stored import random_bytes


class TestArraySource(SourceTests):
    """A matrix in memory, which nobody may change."""

    comparable = False

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        data = random_bytes(shape, "<u2").reshape(-1).view(np.uint8)
        data.flags.writeable = False
        yield Stored(ArraySource(data, 2), data.tobytes(), lambda: None)

    def test_pickle(self, kind: str, stored: Stored, made: Callable[[str, tuple[int, int]], Stored]) -> None:
        """There is nothing that a description could lead to: a pickled source takes its elements along."""
        copy: ArraySource = pickle.loads(pickle.dumps(stored.source))
        assert stored.expected == copy.read(0, copy.length).tobytes()

    def test_changes(self, kind: str, tmp_path: Path, other_process: Executor) -> None:
        """Nothing is stored that could change before it is read, and what is read cannot be written to."""
        with self.make(tmp_path, kind, (2, 3)) as stored, pytest.raises(ValueError, match="read-only"):
            stored.source.read(0, 2)[0] = 1

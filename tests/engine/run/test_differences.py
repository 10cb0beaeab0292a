"""Comparing and subtracting stored tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.planning.extraction.modules import Kind
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.run import differences
from dovetail.engine.run.differences import equal, read_chunk, rows_of_chunk
from dovetail.io.opening import read_checkpoint
from tests.checkpoints import BF16, write_checkpoint
from tests.engine.run.test_factoring import ignore, store


def test_equal(tmp_path: Path) -> None:
    """Numbers are compared, whatever their dtypes; integers only with integers of their kind."""
    a = store(tmp_path, f=np.ones(5, np.float32), g=np.ones(5, BF16), h=np.full(5, 2, BF16), i=np.ones(5, np.int32),
              j=np.ones(5, np.int64), k=np.arange(5, dtype=np.int32))  # fmt: skip
    expected = {"fg": True, "gh": False, "ii": True, "ij": False, "ik": False, "fi": False}
    assert expected == {both: equal(a[both[0]], a[both[1]], ignore) for both in expected}


def test_chunks_are_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks put together are the difference, exact in float64; each has as many rows as fit, or one."""
    random = np.random.default_rng(0)
    new, old = random.standard_normal((7, 3, 2)), random.standard_normal((7, 3, 2)).astype(BF16)
    tensors = read_checkpoint(write_checkpoint(tmp_path / "a", {"new": new, "old": old})).tensors
    pair = TensorPair("w", Kind.LINEAR, tensors["new"], tensors["old"], "w")
    expected = (new - old.astype(np.float64)).reshape(7, 6)
    for elements, rows in ((1, 1), (13, 2), (1000, 7)):
        monkeypatch.setattr(differences, "CHUNK_ELEMENTS", elements)
        assert rows == rows_of_chunk(pair)
        chunks = [read_chunk(pair, first) for first in range(0, 7, rows)]
        np.testing.assert_array_equal(expected, np.concatenate(chunks))

"""Sources that read ranges of a remote file, from a server on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.adapters import source as adapters
from dovetail.io.adapters.changes import Matrix, Rescaled
from dovetail.io.adapters.source import ChangedSource, DoraSource
from dovetail.io.dtypes import DTYPES
from dovetail.io.remote.read_ahead import Pool, reading_through
from dovetail.io.source import Source
from dovetail.io.sources.gathered import GatheredSource
from dovetail.io.sources.parts import ElementRun
from dovetail.io.sources.row_map import row_map
from dovetail.io.sources.rows import FilledElements
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.samples import write_file
from tests.io.stored import random_bytes
from tests.server import serve


class TestRemoteSource(SourceTests):
    """A tensor of a safetensors file, fetched when it is needed or ahead of need."""

    kinds = ("on demand", "ahead")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        values = random_bytes(shape, "<i4")
        before = random_bytes((3,), "u1")
        path = write_file(folder / "model.safetensors", {"a": before, "w": values})

        def change() -> None:
            write_file(path, {"a": before, "w": values ^ 1})

        with (
            serve(folder) as site,
            reading_through(pool := Pool(2**20 if kind == "ahead" else 0)),
            contextlib.closing(pool),
        ):
            checkpoint = read_checkpoint(f"{site.address}/{path.name}")
            yield Stored(checkpoint.tensors["w"].source, values.tobytes(), change)


ROWS, COLUMNS = 40, 50


def wrap(kind: str, source: Source) -> Source:
    """Wrap a remote matrix of float32 in one of several ways."""
    ones = Matrix(HeldSource(np.ones(ROWS, np.float32)), DTYPES["F32"], 1, ROWS)
    changed = ChangedSource(source, DTYPES["F32"], Rescaled(COLUMNS, ones, False))
    order = np.random.default_rng(0).permutation(ROWS).astype(np.int32)
    rows = row_map(np.zeros(ROWS, np.int16), order)
    wrapped: dict[str, Source] = {
        "bare": source,
        "leading": ElementRun(source, 0, 1990),
        "filled": FilledElements(ElementRun(source, 0, 700), source),
        "gathered": GatheredSource((source,), (DTYPES["F32"],), COLUMNS, rows, DTYPES["F32"]),
        "changed": changed,
        "dora": DoraSource(changed, COLUMNS, ones, False),
    }
    return wrapped[kind]


@pytest.mark.parametrize("ahead_bytes", [0, 2**20])
@pytest.mark.parametrize("kind", ["bare", "leading", "filled", "gathered", "changed", "dora"])
def test_wrappers_fetch_once_and_keep_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ahead_bytes: int
) -> None:
    """However it is wrapped, what a task reads is fetched once, and dropped when it is released."""
    monkeypatch.setattr(adapters, "_STEP_ELEMENTS", 300)
    write_file(tmp_path / "model.safetensors", {"w": random_bytes((ROWS, COLUMNS), "<f4")})
    with serve(tmp_path) as site, reading_through(pool := Pool(ahead_bytes)), contextlib.closing(pool):
        source = wrap(kind, read_checkpoint(f"{site.address}/model.safetensors").tensors["w"].source)
        site.requests.clear()
        start, stop = 100, 1900  # rows from the second to the last but two
        source.prefetch(start, stop)
        source.populate(start, stop)
        source.read(start, stop)
        source.release(start, stop)
        asked = [request.headers["Range"].removeprefix("bytes=").split("-") for request in site.requests]
        fetched = sum(int(end) + 1 - int(begin) for begin, end in asked)
        assert 4 * (stop - start) <= fetched <= 4 * ROWS * COLUMNS  # gathered rows come with what is between them
        assert ({}, 0) == (pool._ranges, pool.ahead_bytes)

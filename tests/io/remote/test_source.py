"""Ranges of a remote file as sources, from a server on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dovetail.io import read_checkpoint
from dovetail.io.remote.read_ahead import read_ahead
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.samples import write_file
from tests.io.stored import random_bytes
from tests.server import serve


class TestRemoteSource(SourceTests):
    """A tensor of a safetensors file, fetched when it is needed or ahead of that."""

    kinds = ("on demand", "ahead")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        values = random_bytes(shape, "<i4")
        before = random_bytes((3,), "u1")
        path = write_file(folder / "model.safetensors", {"a": before, "w": values})

        def change() -> None:
            write_file(path, {"a": before, "w": values ^ 1})

        with serve(folder) as site, read_ahead(2**20) if kind == "ahead" else contextlib.nullcontext():
            checkpoint = read_checkpoint(f"{site.address}/{path.name}")
            yield Stored(checkpoint.tensors["w"].source, values.tobytes(), change)

"""Chunks that are not stored are the fill value, as zarr-python leaves them out; a note names their tensors."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.zarr import oddities, source
from dovetail.io.zarr.oddities import count_objects, missing_note
from tests.engine.command import dovetail
from tests.io.zarr_files import write_arrays

TENSORS = {"a": np.ones((4, 6), np.float32), "b": np.zeros((4, 6), np.float32), "empty": np.ones((0, 3), np.float32)}
RULE = (
    "stored, and read as the fill value. Writers leave out chunks that hold nothing else; if these did, the copy is "
    "not complete"
)


def _zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("place", ["folder", "zip", "address"])
def test_what_is_not_stored_is_named(tmp_path: Path, version: int, place: str) -> None:
    """Arrays of zeros, which zarr-python does not store, are named; those that are whole or empty are not."""
    folder = write_arrays(tmp_path / "m.zarr", TENSORS, chunks=lambda shape: (2, 3), zarr_format=version)
    opened = {"folder": folder, "zip": _zipped(folder), "address": f"file://{folder}"}[place]
    checkpoint = read_checkpoint(opened)
    assert (f"{opened}: 4 of 4 chunks of tensor 'b' are not {RULE}",) == checkpoint.notes
    assert not checkpoint.tensors["b"].source.read(0, 24).any()


def test_a_copy_that_lacks_a_chunk(tmp_path: Path) -> None:
    """Where a file of an array got lost, its tensor is named, in what commands say too; shards count as chunks do."""
    folder = write_arrays(tmp_path / "m.zarr", {"a": np.ones((4, 6), np.float32)}, chunks=lambda shape: (2, 3))
    shutil.copytree(folder / "a", folder / "c")
    assert () == read_checkpoint(folder).notes
    (folder / "a" / "c" / "1" / "0").unlink()
    assert (f"{folder}: 1 of 4 chunks of tensor 'a' is not {RULE}",) == read_checkpoint(folder).notes
    shutil.rmtree(folder / "c" / "c" / "0")
    said = f"{folder}: 1 of 4 chunks of tensor 'a', and some of 1 more tensors, are not {RULE}"
    assert (said,) == read_checkpoint(folder).notes
    outcome = dovetail("convert", folder, tmp_path / "out")
    assert 0 == outcome.code
    assert said in outcome.err
    sharded = tmp_path / "s.zarr"
    write_arrays(sharded, {"a": np.ones((4, 6), np.float32)}, chunks=lambda shape: (2, 3), shards=(4, 3))
    assert () == read_checkpoint(sharded).notes


def test_counting() -> None:
    """Chunks belong to the innermost array above them, in folders or not; documents are none."""
    keys = ["a/zarr.json", "a/c/0/0", "a/c/0/1", "b/.zarray", "b/.zattrs", "b/0.0", "d/e/0", "zarr.json", "0"]
    assert {"a": 2, "b": 1} == dict(count_objects(["a", "b"], keys))
    assert {"": 1} == dict(count_objects([""], ["0", "zarr.json"]))
    assert () == missing_note("m", [])


def test_very_many_tiny_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read right and in little memory, and a note says why it takes long; larger or fewer ones are usual."""
    tensor = np.arange(600, dtype=np.float32).reshape(30, 20)
    folder = write_arrays(tmp_path / "m.zarr", {"a": tensor}, chunks=lambda shape: (1, 1), shards=(30, 20))
    monkeypatch.setattr(source, "_STRETCH", 7)
    info = read_checkpoint(folder).tensors["a"].source
    assert tensor.reshape(-1)[3:555].tobytes() == info.read(3, 555).tobytes()
    info.prefetch(0, 600)
    decoding = info.decoding(3, 555)
    assert decoding is not None
    assert (552, 0) == (decoding.elements, decoding.shared_bytes)
    assert () == read_checkpoint(folder).notes
    monkeypatch.setattr(oddities, "MANY_CHUNKS", 599)
    assert (
        f"{folder}: tensor 'a' is stored in 600 chunks of 4 bytes. Each takes about a "
        "ten-thousandth of a second to read, however small it is: larger chunks are quicker",
    ) == read_checkpoint(folder).notes
    monkeypatch.setattr(oddities, "TINY_BYTES", 4)
    assert () == read_checkpoint(folder).notes

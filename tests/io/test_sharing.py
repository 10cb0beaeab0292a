"""Several processes open parts of one output: what is there stays, and who comes first makes what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.io.dtypes import DTYPES
from dovetail.io.files.outfile import ensure_file
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from dovetail.io.output_format import OutputFormat, OutputTensor

TENSORS = [OutputTensor(f"t{number}", DTYPES["F32"], (8, 4), 32) for number in range(4)]
FORMATS = pytest.mark.parametrize("form", [SafetensorsFormat(256), ZarrFormat()], ids=["safetensors", "zarr"])
"""Two tensors a file, and one an array."""


def files(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@FORMATS
def test_shards_are_made_once(form: OutputFormat[Any], tmp_path: Path) -> None:
    """A second process finds what the first has written, also if it opens the same shards anew."""
    layout, _ = form.lay_out(TENSORS)
    last = len(layout.shards) - 1
    values = np.arange(32, dtype=np.float32)
    first = form.share_sink(layout, tmp_path, [last], [])
    first.slot(3).write(0, values)
    before = files(tmp_path)
    second = form.share_sink(layout, tmp_path, [last], [])
    assert before == files(tmp_path)
    second.slot(3).write(0, values)
    first.commit([(3, 0, 32)])
    assert before == files(tmp_path)
    form.share_sink(layout, tmp_path, range(last), []).close()
    found = form.read(_completed(form, layout, tmp_path)).tensors
    assert values.tobytes() == found["t3"].source.read(0, 32).tobytes()
    assert not found["t0"].source.read(0, 32).any()


def _completed(form: OutputFormat[Any], layout: Any, folder: Path) -> Path:
    for name, content in layout.documents.items():
        (folder / name).write_bytes(content)
    form.reopen_sink(layout, folder).close()
    return folder


@FORMATS
def test_a_shard_that_must_be_there(form: OutputFormat[Any], tmp_path: Path) -> None:
    """A shard that has been written to is never made anew: its elements would be zeros."""
    layout, _ = form.lay_out(TENSORS)
    with pytest.raises(FileNotFoundError):
        form.share_sink(layout, tmp_path, [0, 1], [1])


@FORMATS
def test_torn_metadata_is_mended(form: OutputFormat[Any], tmp_path: Path) -> None:
    """A header or document that a process was killed in is whole when the next one has opened the shard."""
    layout, _ = form.lay_out(TENSORS)
    form.share_sink(layout, tmp_path, [0], []).close()
    before = files(tmp_path)
    for name in before:
        (tmp_path / name).write_bytes(before[name][:5])
    form.share_sink(layout, tmp_path, [0], []).close()
    assert before == files(tmp_path)


def test_a_shorter_object_replaces_a_longer_one(tmp_path: Path) -> None:
    """An object of Zarr is cut to its length, whatever was there before."""
    form = ZarrFormat()
    layout, _ = form.lay_out(TENSORS[:1])
    sink = form.share_sink(layout, tmp_path, [0], [])
    sink.slot(0).write(0, np.zeros(32, np.float32))
    before = files(tmp_path)
    (tmp_path / "t0" / "c.0.0").write_bytes(b"\xaa" * 1000)
    sink.slot(0).write(0, np.zeros(32, np.float32))
    assert before == files(tmp_path)


def test_a_file_keeps_what_follows_its_head(tmp_path: Path) -> None:
    """A file gets its head and its size; what else it has stays, and what is too long is cut."""
    path = tmp_path / "file"
    ensure_file(path, b"head", 8)
    assert b"head\0\0\0\0" == path.read_bytes()
    path.write_bytes(b"xxxx1234more")
    ensure_file(path, b"head", 8)
    assert b"head1234" == path.read_bytes()

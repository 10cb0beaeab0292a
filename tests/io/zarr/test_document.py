"""Hostile Zarr metadata and chunks: refused with one of our errors, before any of it is obeyed."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.errors import CheckpointError, UnsupportedError, ZarrError
from dovetail.io.zarr import zip as zarr_zip
from dovetail.io.zarr.chunk_pool import pool
from tests.io.zarr_files import write_arrays

V3: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 6],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 3]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "attributes": {},
}
V2: dict[str, Any] = {
    "zarr_format": 2,
    "shape": [4, 6],
    "chunks": [2, 3],
    "dtype": "<f4",
    "compressor": None,
    "fill_value": 0,
    "filters": None,
    "order": "C",
}
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [1, 3],
        "codecs": V3["codecs"],
        "index_codecs": [*V3["codecs"], {"name": "crc32c"}],
    },
}


def grid(*chunks: object) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}}


def shards(**changes: Any) -> dict[str, Any]:
    return {"codecs": [{"name": "sharding_indexed", "configuration": SHARDS["configuration"] | changes}]}  # type: ignore[operator]


HOSTILE_V3: dict[str, tuple[dict[str, Any], str]] = {
    "not an array": ({"node_type": "table"}, "node_type"),
    "another version": ({"zarr_format": 4}, "zarr_format"),
    "version as text": ({"zarr_format": "3"}, "zarr_format"),
    "negative shape": ({"shape": [-4, 6]}, "shape"),
    "huge shape": ({"shape": [2**62, 2**62]}, "2^62"),
    "shape as text": ({"shape": "46"}, "shape"),
    "shape of booleans": ({"shape": [True, 6]}, "shape"),
    "too many dimensions": ({"shape": [1] * 33, **grid(*[1] * 33)}, "shape"),
    "chunk of zero": (grid(0, 3), "chunk_shape"),
    "negative chunk": (grid(2, -3), "chunk_shape"),
    "chunk of another rank": (grid(2), "dimensions"),
    "huge chunk": (grid(2**61, 2**61), "2^62"),
    "no chunk grid": ({"chunk_grid": None}, "chunk_grid"),
    "rectilinear": ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, "chunk_grid"),
    "objects": ({"data_type": "object"}, "dtype"),
    "strings": ({"data_type": "string"}, "dtype"),
    "complex": ({"data_type": "complex64"}, "dtype"),
    "float8 with infinities": ({"data_type": "float8_e4m3"}, "dtype"),
    "unknown codec": ({"codecs": [{"name": "mystery"}]}, "codec"),
    "pickle": ({"codecs": [{"name": "numcodecs.pickle"}]}, "codec"),
    "text codec": ({"codecs": [{"name": "vlen-utf8"}]}, "codec"),
    "no codecs": ({"codecs": []}, "codecs"),
    "compression only": ({"codecs": [{"name": "zstd"}]}, "refused"),
    "codecs as text": ({"codecs": "bytes"}, "codecs"),
    "bad level": ({"codecs": [*V3["codecs"], {"name": "gzip", "configuration": {"level": 99}}]}, "refused"),
    "bad transpose": (
        {"codecs": [{"name": "transpose", "configuration": {"order": [7, 7]}}, *V3["codecs"]]},
        "refused",
    ),
    "bad fill": ({"fill_value": "many"}, "refused"),
    "key encoding": ({"chunk_key_encoding": {"name": "../x"}}, "refused"),
    "key separator": ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}}}, "refused"),
    "transformers": ({"storage_transformers": [{"name": "x"}]}, "storage_transformers"),
    "must understand": ({"new_thing": {"must_understand": True}}, "must be understood"),
    "name is no text": ({"attributes": {"tensor_name": 5}}, "tensor_name"),
    "name leads out": ({"attributes": {"tensor_name": "../../x"}}, "tensor name"),
    "name steers terminals": ({"attributes": {"tensor_name": "\x1b[2J"}}, "tensor name"),
    "shards that do not divide": (shards(chunk_shape=[2, 2]), "do not divide"),
    "shards of zero": (shards(chunk_shape=[0, 3]), "chunk_shape"),
    "shards of many": (shards(chunk_shape=[1, 1]) | grid(2**20, 2**10), "chunks in a shard"),
    "shards in shards": (shards(codecs=[SHARDS]), "shards within"),
    "pickle in shards": (shards(codecs=[{"name": "numcodecs.pickle"}]), "codec"),
    "pickled index": (shards(index_codecs=[{"name": "numcodecs.pickle"}]), "codec"),
    "codecs around shards": ({"codecs": [SHARDS, {"name": "gzip"}]}, "around"),
    "shards without settings": ({"codecs": [{"name": "sharding_indexed"}]}, "configuration"),
}
HOSTILE_V2: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"dtype": "|O", "filters": [{"id": "pickle"}]}, "dtype"),
    "void of two bytes": ({"dtype": "<V2"}, "dtype"),
    "structured": ({"dtype": [["a", "<f4"]]}, "dtype"),
    "strings": ({"dtype": "<U4"}, "dtype"),
    "pickle": ({"filters": [{"id": "pickle"}]}, "codec"),
    "json": ({"filters": [{"id": "json2"}]}, "codec"),
    "unknown compressor": ({"compressor": {"id": "mystery"}}, "codec"),
    "compressor as text": ({"compressor": "zstd"}, "codec"),
    "bad order": ({"order": "K"}, "order"),
    "bad separator": ({"dimension_separator": "/../"}, "refused"),
    "bad filters": ({"filters": {"id": "delta"}}, "filters"),
    "negative shape": ({"shape": [-1, 6]}, "shape"),
    "chunk of zero": ({"chunks": [0, 3]}, "chunks"),
    "huge": ({"shape": [2**62, 9]}, "2^62"),
}


def write(folder: Path, document: Any, name: str) -> Path:
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


@pytest.mark.parametrize("case", HOSTILE_V3)
def test_hostile_version_3(tmp_path: Path, case: str) -> None:
    """Metadata that lies, asks for too much or for code is refused, naming what is wrong."""
    changes, text = HOSTILE_V3[case]
    with pytest.raises((ZarrError, UnsupportedError)) as caught:
        read_checkpoint(write(tmp_path, V3 | changes, "zarr.json"))
    assert text in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", HOSTILE_V2)
def test_hostile_version_2(tmp_path: Path, case: str) -> None:
    """As for version 3; nothing is unpickled."""
    changes, text = HOSTILE_V2[case]
    with pytest.raises((ZarrError, UnsupportedError)) as caught:
        read_checkpoint(write(tmp_path, V2 | changes, ".zarray"))
    assert text in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 100_000, '{"zarr_format": NaN}', "\ud800"])
@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_documents_that_are_no_documents(tmp_path: Path, name: str, text: str) -> None:
    """What is no JSON object is refused."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ZarrError):
        read_checkpoint(tmp_path)


def test_sound_documents_are_taken(tmp_path: Path) -> None:
    """The documents that the attacks start from are good, and chunks that are not there are zeros."""
    for name, document in (("zarr.json", V3), ("zarr.json", V3 | {"codecs": [SHARDS]}), (".zarray", V2)):
        write(tmp_path, document, name)
        assert bytes(96) == read_checkpoint(tmp_path).tensors["a"].source.read(0, 24).tobytes()
        (tmp_path / "a" / name).unlink()


def test_a_huge_chunk_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    """A chunk of terabytes that is not there costs nothing; what it would cost is in the projection."""
    write(tmp_path, V3 | {"shape": [4, 6]} | grid(2**20, 2**20), "zarr.json")
    source = read_checkpoint(tmp_path).tensors["a"].source
    assert bytes(96) == source.read(0, 24).tobytes()
    assert source.scratch_bytes > 2**42  # type: ignore[attr-defined]


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    """``a/b`` and ``a.b`` would be one tensor."""
    for path in ("a/b", "a.b"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "zarr.json").write_text(json.dumps(V3))
    with pytest.raises(ZarrError, match=r"two arrays .* are called 'a.b'"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a//b", ".", "a\\b", "a\x1b"])
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str) -> None:
    """Consolidated metadata and zip files cannot name arrays outside their place."""
    group = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {path: V3}}}
    (tmp_path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(ZarrError, match="names an array"):
        read_checkpoint(f"file://{tmp_path}")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"{path}/zarr.json", json.dumps(V3))
    with pytest.raises(ZarrError, match="names an array"):
        read_checkpoint(tmp_path / "a.zip")


@pytest.mark.parametrize("target", ["zarr.json", "c.0.0"])
def test_links_that_lead_out(tmp_path: Path, target: str) -> None:
    """Neither metadata nor a chunk can be a link to a file elsewhere."""
    (tmp_path / "private").write_text(json.dumps(V3))
    folder = write(tmp_path / "z" if (tmp_path / "z").mkdir() is None else tmp_path, V3, "zarr.json")
    (folder / "a" / target).unlink(missing_ok=True)
    (folder / "a" / target).symlink_to(tmp_path / "private")
    with pytest.raises(ZarrError, match="leads outside"):
        read_checkpoint(folder)


@pytest.mark.parametrize("target", ["zarr.json", "c.0.0"])
def test_pipes(tmp_path: Path, target: str) -> None:
    """A named pipe does not hang the program."""
    write(tmp_path, V3, "zarr.json")
    (tmp_path / "a" / target).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "a" / target)
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path)


def test_zstandard_frames_without_a_size(tmp_path: Path) -> None:
    """Writers that stream do not know the size beforehand: such frames are taken if they fill the chunk."""
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    write_arrays(tmp_path, {"a": array}, chunks=lambda _: (4, 6), compressors={"name": "zstd", "configuration": {}})
    content = array.tobytes()
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    (tmp_path / "a" / "c" / "0" / "0").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + block)
    pool().clear()
    assert content == read_checkpoint(tmp_path).tensors["a"].source.read(0, 24).tobytes()


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_a_zip_file_of_very_many_records(tmp_path: Path, comment: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of a zip file is refused before it is read, wherever it says that it ends."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/zarr.json", json.dumps(V3))
        archive.comment = comment
    assert ["a"] == list(read_checkpoint(path).tensors)
    monkeypatch.setattr(zarr_zip, "MAX_DIRECTORY_BYTES", 56)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ZarrError, match="says that its directory has 57 bytes; expected at most 56; unpack it"):
        read_checkpoint(path)


def test_a_zip_file_with_a_record_without_name(tmp_path: Path) -> None:
    """A record without a name is no array, and no error of Python."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/zarr.json", json.dumps(V3))
        archive.writestr("x", b"")
        archive.infolist()[1].filename = ""
    assert ["a"] == list(read_checkpoint(path).tensors)

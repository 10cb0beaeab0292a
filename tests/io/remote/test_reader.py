"""Remote checkpoints are opened and checked as local ones are, and hostile servers do no harm."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from dovetail.io import open_checkpoint
from dovetail.io.errors import CheckpointError, IndexFileError, MissingFileError, UnsupportedError
from dovetail.io.opening import read_checkpoint
from dovetail.io.remote import reader as remote_reader
from dovetail.io.remote import retrying
from dovetail.io.remote.side_files import RemoteSideFiles
from tests.attacks.servers import SERVER_ATTACKS, ServerAttack
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.naive_dequantise import write_raw, zeros
from tests.pace import within
from tests.server import Site, serve


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all pauses and time limits."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve a checkpoint of one file and one of three."""
    write_checkpoint(tmp_path / "one", llama_tensors(0))
    write_checkpoint(tmp_path / "three", llama_tensors(0), shards=3)
    with serve(tmp_path) as served:
        yield served


@pytest.mark.parametrize("place", ["one", "three", "one/model.safetensors", "three/"])
def test_the_same_catalogue(site: Site, tmp_path: Path, place: str) -> None:
    """Names, dtypes, shapes, order, bytes and header hashes are those of the files, and sources can be pickled."""
    local, remote = read_checkpoint(tmp_path / place), read_checkpoint(f"{site.address}/{place}")
    assert list(local.tensors) == list(remote.tensors)
    assert local.metadata == remote.metadata
    assert [(file.name, file.size_bytes, file.header_hash) for file in local.files] == [
        (file.name, file.size_bytes, file.header_hash) for file in remote.files
    ]
    assert all(file.etag and not file.mtime_ns for file in remote.files)
    for name, info in local.tensors.items():
        other = pickle.loads(pickle.dumps(remote.tensors[name]))
        assert (info.dtype, info.shape, info.length) == (other.dtype, other.shape, other.length)
        assert np.array_equal(info.source.read(3, info.length), other.source.read(3, info.length))
    assert (True, None) == (remote.remote, remote.folder)
    remote.check_unchanged()


def test_long_headers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that is longer than the first request takes one more request, for its rest."""
    monkeypatch.setattr(remote_reader, "HEAD_BYTES", 64)
    read_checkpoint(f"{site.address}/one/model.safetensors")
    first, second = (request.headers["Range"] for request in site.requests)
    assert "bytes=0-63" == first
    assert second.startswith("bytes=64-")


def test_as_a_zarr_group(site: Site, tmp_path: Path) -> None:
    """An address can be opened as a Zarr group, as a folder can."""
    group = open_checkpoint(f"{site.address}/three")
    expected = open_checkpoint(tmp_path / "three")
    array = group["model.embed_tokens.weight"]
    assert isinstance(array, zarr.Array)
    other = expected["model.embed_tokens.weight"]
    assert isinstance(other, zarr.Array)
    assert np.array_equal(np.asarray(array[3:9]).view(np.uint16), np.asarray(other[3:9]).view(np.uint16))


def test_side_files(site: Site, tmp_path: Path) -> None:
    """The usual small files are downloaded once, when they are needed; web pages are not taken for files."""
    (tmp_path / "one" / "merges.txt").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    checkpoint = read_checkpoint(f"{site.address}/one")
    assert ["config.json"] == [request.name for request in site.requests if "Range" not in request.headers]
    folder = checkpoint.side_folder
    assert folder is not None
    assert ["config.json", "tokenizer.json"] == sorted(path.name for path in folder.iterdir())
    assert (tmp_path / "one" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    before = len(site.requests)
    assert folder == pickle.loads(pickle.dumps(checkpoint)).side_folder
    assert before == len(site.requests)
    assert read_checkpoint(f"{site.address}/one/model.safetensors").side_folder is None


def test_side_files_are_small(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless side file, or side files that are together too large, are refused."""
    from dovetail.io.remote import side_files

    monkeypatch.setattr(side_files, "LARGEST_BYTES", 100)
    monkeypatch.setattr(side_files, "LARGEST_TOTAL_BYTES", 150)
    (tmp_path / "three" / "tokenizer.json").write_bytes(bytes(101))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json in .* is too large for a side file"):
        RemoteSideFiles(f"{site.address}/three").fetch()


def test_what_is_not_there(site: Site, tmp_path: Path) -> None:
    """A missing folder, file or shard, and an index that lies, raise the same errors as in local folders."""
    with pytest.raises(MissingFileError, match="there is no checkpoint at http"):
        read_checkpoint(f"{site.address}/four")
    with pytest.raises(MissingFileError, match="there is no file at http"):
        read_checkpoint(f"{site.address}/one/other.safetensors")
    shards = sorted((tmp_path / "three").glob("*.safetensors"))
    shards[0].rename(tmp_path / "aside")
    with pytest.raises(MissingFileError, match=f"there is no file at .*{shards[0].name}"):
        read_checkpoint(f"{site.address}/three")
    shards[0].write_bytes(shards[1].read_bytes())
    with pytest.raises(IndexFileError, match="and in an earlier file of"):
        read_checkpoint(f"{site.address}/three")


def test_quantised_checkpoints(site: Site, tmp_path: Path) -> None:
    """Quantisation is recognised from afar too, and a configuration that is left over."""
    (tmp_path / "one" / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    (note,) = read_checkpoint(f"{site.address}/one").notes
    assert f"{site.address}/one: config.json has a quantization_config (gptq), but no tensor is quantised" in note
    write_raw(tmp_path / "one", {"l.weight": zeros("F8_E4M3", 4, 4), "l.weight_scale": zeros("F32", 4, 1)})
    with pytest.raises(UnsupportedError, match=f"{site.address}/one is quantised: config.json"):
        read_checkpoint(f"{site.address}/one")


def test_without_the_extra(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the extra is not installed, one line says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(UnsupportedError, match=r"addresses need the package urllib3.*'dovetail\[remote\]'"):
        read_checkpoint(f"{site.address}/one")


@pytest.mark.parametrize("attack", SERVER_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_servers(attack: ServerAttack, site: Site) -> None:
    """Each defect is named soon, in little memory, with the address."""
    site.fault = attack.answer
    address = f"{site.address}/one" + ("" if "index" in attack.id else "/model.safetensors")
    tracemalloc.start()
    try:
        with within(10), pytest.raises(attack.error) as caught:
            read_checkpoint(address)
        assert tracemalloc.get_traced_memory()[1] < 450 * 2**20
    finally:
        tracemalloc.stop()
    assert attack.error is type(caught.value)
    assert attack.text in str(caught.value)
    assert address in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_side_files_are_of_one_opening(site: Site) -> None:
    """If side files change on the server, opening the checkpoint again gives the new ones; they go with it."""
    (site.root / "one" / "config.json").write_text('{"version": 1}')
    first = read_checkpoint(f"{site.address}/one")
    assert first.side_folder is not None
    assert '{"version": 1}' == (first.side_folder / "config.json").read_text()
    (site.root / "one" / "config.json").write_text('{"version": 2}')
    second = read_checkpoint(f"{site.address}/one")
    assert second.side_folder is not None
    assert '{"version": 2}' == (second.side_folder / "config.json").read_text()
    assert '{"version": 1}' == (first.side_folder / "config.json").read_text()
    place = first.side_folder
    del first
    gc.collect()
    assert not place.exists()
    assert second.side_folder.exists()

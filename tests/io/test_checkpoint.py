"""Opening checkpoints: which files are read, what the catalogue says, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dovetail.io import read_checkpoint as public_read_checkpoint
from dovetail.io.dtypes import DTYPES, to_numpy
from dovetail.io.errors import ChangedFileError, CheckpointError, HeaderError, MissingFileError, UnsupportedError
from dovetail.io.formats.safetensors_layout import plan_layout
from dovetail.io.formats.safetensors_sink import SafetensorsSink
from dovetail.io.opening import read_checkpoint
from tests.io.samples import every_kind, random_array, write_file, write_shards

ONE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_single_file_folder(tmp_path: Path) -> None:
    """A folder with ``model.safetensors`` can be opened, and every tensor has the bytes that were written."""
    tensors = every_kind()
    write_file(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    checkpoint = public_read_checkpoint(str(tmp_path))
    assert tmp_path == checkpoint.path == checkpoint.folder
    assert {"format": "pt"} == checkpoint.metadata
    assert set(tensors) == set(checkpoint.tensors)
    assert sum(array.nbytes for array in tensors.values()) == checkpoint.nbytes
    for name, array in tensors.items():
        info = checkpoint.tensors[name]
        assert (array.shape, array.size, array.nbytes) == (info.shape, info.length, info.nbytes)
        assert array.dtype == to_numpy(info.dtype)
        assert array.tobytes() == info.source.read(0, info.length).tobytes()


def test_one_file(tmp_path: Path) -> None:
    """A path to a file opens only that file, with no folder for side files."""
    path = write_file(tmp_path / "any.name", ONE)
    checkpoint = read_checkpoint(path)
    assert (path, None) == (checkpoint.path, checkpoint.folder)
    assert ["any.name"] == [file.name for file in checkpoint.files]


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources hold absolute paths, so that a worker in another folder reads the same file."""
    write_file(tmp_path / "model.safetensors", ONE)
    monkeypatch.chdir(tmp_path)
    checkpoint = read_checkpoint(".")
    monkeypatch.chdir("/")
    assert ONE["w"].tobytes() == checkpoint.tensors["w"].source.read(0, 6).tobytes()


def test_shards(tmp_path: Path) -> None:
    """Shards open as one checkpoint, tensors in the order of files and of their data."""
    write_shards(tmp_path, {"b": ONE["w"], "a": ONE["w"]}, {"c": ONE["w"]})
    checkpoint = read_checkpoint(tmp_path)
    assert ["a", "b", "c"] == list(checkpoint.tensors)
    assert ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] == [
        file.name for file in checkpoint.files
    ]


def test_tensors_beyond_the_index_are_kept(tmp_path: Path) -> None:
    """A tensor that a shard holds and the index forgot is part of the checkpoint, as it is for transformers."""
    write_shards(tmp_path, {"a": ONE["w"]}, {"b": ONE["w"]})
    write_file(tmp_path / "model-00002-of-00002.safetensors", {"b": ONE["w"], "extra": ONE["w"]})
    assert {"a", "b", "extra"} == set(read_checkpoint(tmp_path).tensors)


def test_consolidated_file_beside_shards_is_ignored(tmp_path: Path) -> None:
    """A second copy of the weights in another layout, as some publishers add it, is not read."""
    write_shards(tmp_path, {"a": ONE["w"]}, {"b": ONE["w"]})
    write_file(tmp_path / "consolidated.safetensors", {"other": ONE["w"]})
    assert {"a", "b"} == set(read_checkpoint(tmp_path).tensors)


def test_any_single_file_is_taken(tmp_path: Path) -> None:
    """The only safetensors file of a folder is its checkpoint, under any name; so is an index of another name."""
    write_file(tmp_path / "diffusion_pytorch_model.safetensors", ONE)
    assert ["w"] == list(read_checkpoint(tmp_path).tensors)
    shards = write_shards(tmp_path / "shards", {"a": ONE["w"]}, {"b": ONE["w"]})
    (shards / "model.safetensors.index.json").rename(shards / "transformer.safetensors.index.json")
    assert ["a", "b"] == list(read_checkpoint(shards).tensors)


def test_missing_path(tmp_path: Path) -> None:
    """A missing path is reported as missing."""
    with pytest.raises(MissingFileError, match=r"there is no checkpoint at .*/nothing; expected a folder or a file"):
        read_checkpoint(tmp_path / "nothing")


def test_folder_without_checkpoint(tmp_path: Path) -> None:
    """The error for an empty folder says which files were looked for."""
    with pytest.raises(
        MissingFileError,
        match=r"has no .safetensors file; expected model.safetensors, model.safetensors.index.json with",
    ):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("model.ckpt", "PyTorch Lightning"), ("model.gguf", "GGUF"), ("flax_model.msgpack", "Flax")]
)
def test_other_formats_are_named(name: str, kind: str, tmp_path: Path) -> None:
    """The error for a checkpoint in another format names the format, for a folder and for a file."""
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(MissingFileError, match=rf"no .safetensors file, only {kind} \({name}\), which is not read"):
        read_checkpoint(tmp_path)
    with pytest.raises(UnsupportedError, match=f"{name} is a {kind} file"):
        read_checkpoint(tmp_path / name)


def test_several_files_without_index(tmp_path: Path) -> None:
    """Several files without an index are ambiguous and refused."""
    write_file(tmp_path / "a.safetensors", ONE)
    write_file(tmp_path / "b.safetensors", ONE)
    with pytest.raises(MissingFileError, match=r"has 2 .safetensors files and no index \(a.safetensors, b.safetensors"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "part.3-of-12.safetensors"])
def test_one_of_several_files(tmp_path: Path, name: str) -> None:
    """The one file that has arrived of several, without the index, is no model; given by its path, it is what it is."""
    write_file(tmp_path / name, ONE)
    with pytest.raises(MissingFileError, match=f"has no files of weights but {name}, and no index"):
        read_checkpoint(tmp_path)
    assert ONE.keys() == read_checkpoint(tmp_path / name).tensors.keys()
    (tmp_path / name).rename(tmp_path / "model-00001-of-00001.safetensors")
    assert ONE.keys() == read_checkpoint(tmp_path).tensors.keys()


def test_a_single_file_beside_shards(tmp_path: Path) -> None:
    """`model.safetensors` is read, as transformers does, and a note says that there are shards too."""
    write_file(tmp_path / "model.safetensors", ONE)
    write_file(tmp_path / "s.safetensors", ONE)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(ONE, "s.safetensors")}))
    (note,) = read_checkpoint(tmp_path).notes
    assert "has model.safetensors as well as model.safetensors.index.json with s.safetensors" in note
    for text in (json.dumps({"weight_map": dict.fromkeys(ONE, "model.safetensors")}), "{"):
        index.write_text(text)
        assert () == read_checkpoint(tmp_path).notes


def test_another_file_beside_a_model_of_pytorch(tmp_path: Path) -> None:
    """A safetensors file of some name is not taken for the model where there is one of PyTorch; an adapter never is."""
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    write_file(tmp_path / "adapter_model.safetensors", ONE)
    assert ["w"] == list(read_checkpoint(tmp_path).tensors)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "extra.safetensors")
    with pytest.raises(MissingFileError, match=r"has extra.safetensors and pytorch_model.bin, and nothing shows"):
        read_checkpoint(tmp_path)


def test_one_of_several_files_of_pytorch(tmp_path: Path) -> None:
    """So it is with the files of PyTorch."""
    (tmp_path / "pytorch_model-00002-of-00003.bin").write_bytes(b"x")
    with pytest.raises(MissingFileError, match="has no files of weights but pytorch_model-00002"):
        read_checkpoint(tmp_path)


def test_adapter_is_refused(tmp_path: Path) -> None:
    """A LoRA adapter is refused as a model."""
    write_file(tmp_path / "adapter_model.safetensors", ONE)
    with pytest.raises(UnsupportedError, match=r"is an adapter \(LoRA\), not a model"):
        read_checkpoint(tmp_path)


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed raises one of our errors."""

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(MissingFileError, match=r"cannot read .* \(Permission denied\); expected a readable folder"):
        read_checkpoint(tmp_path)


def test_truncated_shard(tmp_path: Path) -> None:
    """A shard with an incomplete download is refused when the checkpoint is opened."""
    write_shards(tmp_path, {"a": ONE["w"]}, {"b": ONE["w"]})
    os.truncate(tmp_path / "model-00002-of-00002.safetensors", 90)
    with pytest.raises(HeaderError, match=r"tensor 'b' in .*00002-of-00002.safetensors ends at byte 24, outside"):
        read_checkpoint(tmp_path)


def test_broken_config_is_refused(tmp_path: Path) -> None:
    """A config.json that is not a JSON object is an error, because it could have shown quantisation."""
    write_file(tmp_path / "model.safetensors", ONE)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: is not JSON"):
        read_checkpoint(tmp_path)


def test_checkpoints_are_pickled(tmp_path: Path) -> None:
    """A pickled checkpoint is the same in another process, and its tensors can be read there."""
    write_shards(tmp_path, {"a": ONE["w"]}, {"b": ONE["w"]})
    checkpoint = read_checkpoint(tmp_path)
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert checkpoint == copy
    assert ONE["w"].tobytes() == copy.tensors["b"].source.read(0, 6).tobytes()


def test_fingerprints_tell_headers_apart(tmp_path: Path) -> None:
    """Equal headers have equal hashes, different headers different ones, whatever the data."""
    hashes = {}
    for name, shape in {"a": (2, 3), "b": (2, 3), "c": (3, 2)}.items():
        path = write_file(tmp_path / f"{name}.safetensors", {"w": random_array(ord(name), "F32", shape)})
        (file,) = read_checkpoint(path).files
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (file.size_bytes, file.mtime_ns)
        hashes[name] = file.header_hash
    assert hashes["a"] == hashes["b"] != hashes["c"]
    assert 32 == len(hashes["a"])


def test_changes_are_noticed(tmp_path: Path) -> None:
    """A file that grows, shrinks, is touched or is removed after opening is noticed by the check."""
    path = write_file(tmp_path / "model.safetensors", ONE)
    checkpoint = read_checkpoint(tmp_path)
    checkpoint.check_unchanged()
    os.utime(path, ns=(0, 1))
    with pytest.raises(ChangedFileError, match=r"model.safetensors changed while it was in use"):
        checkpoint.check_unchanged()
    path.unlink()
    with pytest.raises(ChangedFileError, match=r"model.safetensors is gone"):
        checkpoint.check_unchanged()


def test_fifty_thousand_tensors_open(tmp_path: Path) -> None:
    """A checkpoint of 50,000 tensors in many shards opens, without reading data."""
    specs = ((f"model.layers.{i // 700}.mlp.experts.{i % 700}.w", DTYPES["BF16"], (32, 1024)) for i in range(50_000))
    SafetensorsSink.create(plan_layout(specs, 50 * 2**20), tmp_path).close()
    checkpoint = read_checkpoint(tmp_path)
    assert 50_000 == len(checkpoint.tensors)

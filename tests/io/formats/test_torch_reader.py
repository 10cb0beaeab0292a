"""PyTorch files give the tensors that PyTorch itself loads, whatever their layout, and nothing else is read."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import (
    CheckpointError,
    IndexFileError,
    MissingFileError,
    TorchFileError,
    UnsupportedError,
)
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.strided import StridedSource
from dovetail.io.formats import torch_catalogue, torch_reader
from dovetail.io.opening import read_checkpoint
from tests.torch_child import list_in_new_child


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let PyTorch list tensors in this process, which has it loaded, unless a test is about the child."""
    here = lambda paths: [torch_catalogue.catalogue(path) for path in paths]  # noqa: E731
    monkeypatch.setattr(torch_reader, "list_tensors", list_in_new_child if "child" in request.node.name else here)


def stored(tensor: torch.Tensor) -> bytes:
    """Give a tensor's bytes in row-major order."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def check(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    """Compare everything that a checkpoint holds with tensors."""
    assert list(expected) == list(checkpoint.tensors)
    for name, tensor in expected.items():
        info = checkpoint.tensors[name]
        assert (tuple(tensor.shape), str(tensor.dtype)) == (info.shape, f"torch.{info.dtype.torch_name}")
        assert tensor.numel() == info.length
        info.source.populate(0, info.length)
        assert stored(tensor) == info.source.read(0, info.length).tobytes(), name
        middle = info.length // 2
        assert stored(tensor)[: middle * info.dtype.itemsize] == info.source.read(0, middle).tobytes()


def tensors() -> dict[str, torch.Tensor]:
    """Make tensors of every dtype and of awkward layouts."""
    torch.manual_seed(0)
    matrix = torch.randn(40, 30)
    made = {
        f"dtype.{name}": torch.randn(5, 3).to(getattr(torch, name))
        for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32")
    }
    made |= {f"dtype.{name}": torch.arange(6).to(getattr(torch, name)) for name in ("int16", "int8", "uint8", "bool")}
    return made | {
        "matrix": matrix,
        "transposed": matrix.T,
        "row": matrix[3],
        "column": matrix[:, 4],
        "part": matrix[10:20, 5:15],
        "tied": matrix,
        "expanded": matrix[:1].expand(7, 30),
        "permuted": torch.randn(3, 4, 5).permute(2, 0, 1),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "one": torch.randn(1, 1, 5)[:, :, ::2],
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }


def test_every_dtype_and_layout(tmp_path: Path) -> None:
    """Contiguous tensors are mapped, even if they share a storage; others are gathered; all have the right values."""
    expected = tensors()
    torch.save(expected, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    check(checkpoint, expected)
    kinds = {name: type(info.source) for name, info in checkpoint.tensors.items()}
    for name in ("matrix", "tied", "row", "scalar", "empty", "parameter"):
        assert MappedSource is kinds[name], name
    for name in ("transposed", "column", "part", "expanded", "permuted"):
        assert StridedSource is kinds[name], name
    assert checkpoint.tensors["tied"].source == checkpoint.tensors["matrix"].source
    assert ("model.pt", (tmp_path / "model.pt").stat().st_size) == (
        checkpoint.files[0].name,
        checkpoint.files[0].size_bytes,
    )
    checkpoint.check_unchanged()


def test_a_module_read_in_the_child(tmp_path: Path) -> None:
    """The child process lists a module's state dictionary, too, which has the attribute `_metadata`."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"never looked at")
    check(read_checkpoint(tmp_path), module.state_dict())


def test_older_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If storages on the device "meta" do not keep their position, those of fake tensors do."""
    expected = {"a": torch.randn(4, 5), "b": torch.randn(6, 2).T}
    torch.save({"state_dict": expected}, tmp_path / "model.pt")
    load = torch.load

    def forgetful(path: str, **options: Any) -> Any:
        content = load(path, **options)
        if options.get("map_location") == "meta":
            for value in content["state_dict"].values():
                del value.untyped_storage()._checkpoint_offset
                value.set_(torch.UntypedStorage(200, device="meta"), 0, value.shape, value.stride())
        return content

    monkeypatch.setattr(torch, "load", forgetful)
    check(read_checkpoint(tmp_path / "model.pt"), expected)


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("module",), ("model", "state_dict")])
def test_nested_state_dictionaries(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """The tensors are found under the usual keys, and a training program's other values are ignored."""
    expected = {"w": torch.randn(3)}
    content: Any = expected
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.randn(9)}}}}
    torch.save(content, tmp_path / "model.pth")
    check(read_checkpoint(tmp_path / "model.pth"), expected)


def test_entries_that_are_no_tensors(tmp_path: Path) -> None:
    """Numbers and texts among the tensors are left out, with a warning."""
    torch.save(OrderedDict(w=torch.randn(3), version=3, note="x"), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert ["w"] == list(checkpoint.tensors)
    (note,) = checkpoint.notes
    assert note.startswith("2 entries of ")
    assert note.endswith("are not tensors and are left out: 'version', 'note'")


def write_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Write a checkpoint in two files with an index."""
    expected = {"a": torch.randn(4, 5), "b": torch.randn(6).bfloat16()}
    for number, (name, tensor) in enumerate(expected.items(), 1):
        torch.save({name: tensor}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    weight_map = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, name in enumerate(expected, 1)}
    (folder / torch_reader.INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return expected


def test_shards(tmp_path: Path) -> None:
    """Shards are found by their index."""
    expected = write_shards(tmp_path)
    check(read_checkpoint(tmp_path), expected)


@pytest.mark.parametrize("place", ["../x.bin", "/etc/x.bin", "x.safetensors", ".bin", "x/y.bin"])
def test_an_index_stays_in_its_folder(tmp_path: Path, place: str) -> None:
    """An index names files of its folder, with the suffix of PyTorch's."""
    write_shards(tmp_path)
    (tmp_path / torch_reader.INDEX_NAME).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(IndexFileError, match=r"expected the name of a \.bin file in the same folder"):
        read_checkpoint(tmp_path)


def test_an_index_that_lies(tmp_path: Path) -> None:
    """A tensor that is in another shard than the index says, and a link that leads outside, are refused."""
    write_shards(tmp_path)
    shard = "pytorch_model-00001-of-00002.bin"
    (tmp_path / torch_reader.INDEX_NAME).write_text(json.dumps({"weight_map": {"b": shard}}))
    with pytest.raises(IndexFileError, match="tensor 'b' is not in"):
        read_checkpoint(tmp_path)
    (tmp_path / shard).unlink()
    (tmp_path / shard).symlink_to("/etc/hostname")
    with pytest.raises(IndexFileError, match="leads outside its folder"):
        read_checkpoint(tmp_path)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    """If a folder has both, PyTorch's files are not read."""
    from safetensors.numpy import save_file

    (tmp_path / "pytorch_model.bin").write_bytes(b"never looked at")
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    assert ["w"] == list(read_checkpoint(tmp_path).tensors)


def test_several_files_without_an_index(tmp_path: Path) -> None:
    """Several files without an index are ambiguous, unless one has the usual name."""
    for name in ("a.pt", "b.pth"):
        torch.save({"w": torch.ones(3)}, tmp_path / name)
    with pytest.raises(MissingFileError, match="has 2 PyTorch files and no index"):
        read_checkpoint(tmp_path)
    torch.save({"v": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    assert ["v"] == list(read_checkpoint(tmp_path).tensors)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([torch.ones(3)], "it holds a list, not a mapping of tensors by name"),
        ({"epoch": 3}, "it holds no tensors by name, nor under state_dict"),
        ({"model": {"w": torch.ones(3)}, "state_dict": {"w": torch.ones(3)}}, "several sets of tensors"),
        ({"w": torch.ones(3).to_sparse()}, "sparse, quantised or conjugated"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, "has dtype complex64"),
        ({"a/b": torch.ones(3)}, "cannot be part of a path"),
        ({"layers.qweight": torch.ones(3)}, "is quantised"),
        ({1: torch.ones(3), "1": torch.ones(3)}, "tensor '1' is twice in"),
    ],
)
def test_contents_that_are_refused(tmp_path: Path, content: Any, text: str) -> None:
    """Contents other than plain tensors are refused, with a message that says what they are."""
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert text in str(caught.value)
    assert str(tmp_path / "model.pt") in str(caught.value)


def test_the_old_format(tmp_path: Path) -> None:
    """Files from before PyTorch 1.6 cannot be mapped, and the error says what to do."""
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedError, match=r"before PyTorch 1\.6; expected .*; save it again with torch\.save"):
        read_checkpoint(tmp_path / "model.pt")


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If torch is not installed, one line says what to install."""
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        UnsupportedError, match=r"PyTorch files need the package torch, .* pip install 'dovetail\[torch\]'"
    ):
        read_checkpoint(tmp_path / "model.pt")


def test_a_child_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the child process dies, the error names the file and the reason."""
    torch.save({"w": torch.ones(3)}, tmp_path / "model.pt")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TorchFileError, match=r"PyTorch could not read .*model\.pt \(exit code 1\)"):
        read_checkpoint(tmp_path / "model.pt")

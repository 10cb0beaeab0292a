"""Checkpoints of any format as torch tensors: the same names, shapes and bits, and no file is ever changed."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dovetail.engine import PlanOptions, ZarrFormat, convert
from dovetail.io import CheckpointError, MissingFileError, UnsupportedError, load_state_dict, read_checkpoint
from dovetail.io.dtypes import DTYPES, to_numpy
from dovetail.io.files.mapping import MappedSource
from dovetail.io.state_dict import load_tensors
from tests.checkpoints import write_checkpoint


def tensors_of_every_dtype() -> dict[str, NDArray[Any]]:
    """Make a tensor of every dtype, a scalar and an empty one."""
    random = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {"number": np.asarray(np.float32(3)), "empty": np.zeros((0, 4), np.float16)}
    for dtype in DTYPES.values():
        found[dtype.torch_name] = random.integers(0, 2, (5, 6)).astype(to_numpy(dtype))
    return found


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Describe tensors to the last bit."""
    return {
        name: (each.dtype, tuple(each.shape), each.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, each in tensors.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of two shards."""
    return write_checkpoint(tmp_path_factory.mktemp("models") / "sharded", tensors_of_every_dtype(), shards=2)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, torch.Tensor]:
    """Read it by the official library."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("copy", [False, True], ids=["mapped", "copied"])
def test_safetensors(folder: Path, expected: dict[str, torch.Tensor], copy: bool) -> None:
    """Shards of safetensors give what the official library gives, for every dtype, in the checkpoint's order."""
    found = load_state_dict(folder, copy=copy)
    assert bits(expected) == bits(found)
    assert list(read_checkpoint(folder).tensors) == list(found)


def test_pytorch(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """A PyTorch file gives what was saved, transposed and shared tensors too."""
    matrix = torch.arange(6.0).reshape(2, 3)
    stored = {**expected, "transposed": matrix.T, "part": matrix[1], "same": matrix}
    torch.save(stored, tmp_path / "model.pt")
    assert bits(stored) == bits(load_state_dict(tmp_path / "model.pt"))


def test_zarr(tmp_path: Path, folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """A Zarr group gives the tensors that were converted to it."""
    convert(folder, tmp_path / "model.zarr", PlanOptions(format=ZarrFormat()))
    assert bits(expected) == bits(load_state_dict(tmp_path / "model.zarr"))


def test_changing_a_tensor_changes_no_file(folder: Path) -> None:
    """Tensors can be written to; the files, and tensors that are loaded again, stay as they were."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = load_state_dict(folder)
    found["float32"].fill_(7)
    found["bfloat16"].mul_(0)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert not (load_state_dict(folder)["float32"] == 7).any()
    assert (found["float32"] == 7).all()


def test_copies_outlive_their_files(tmp_path: Path) -> None:
    """What was copied stays when the file is cut short."""
    path = write_checkpoint(tmp_path / "model", {"weight": np.ones(5000, np.float32)})
    found = load_state_dict(path, copy=True)
    os.truncate(path / "model.safetensors", 0)
    assert 5000 == int(found["weight"].sum())


def test_mapped_tensors_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No element of a safetensors file is read before it is used."""
    before = bits(load_state_dict(folder))

    def read(*_: object) -> None:
        raise AssertionError("an element was read")

    small = {name: info for name, info in read_checkpoint(folder).tensors.items() if info.length}
    monkeypatch.setattr(MappedSource, "populate", read)
    monkeypatch.setattr(MappedSource, "read", read)
    catalogue = replace(read_checkpoint(folder), tensors=small)
    assert {name: before[name] for name in small} == bits(load_tensors(catalogue))


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    """A tensor that does not lie at a multiple of its element size is copied, and right."""
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    values = np.float32([1.5, -2])
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x05" + values.tobytes())
    assert values.tolist() == load_state_dict(path)["b"].tolist()


def test_paths_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``~`` stands for the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_checkpoint(tmp_path / "model", {"weight": np.ones(2, ml_dtypes.bfloat16)})
    with pytest.raises(MissingFileError, match=f"there is no adapter at {tmp_path}/adapter"):
        read_checkpoint("~/model", "~/adapter")
    assert (
        [1, 1] == load_state_dict("~/model")["weight"].tolist() == load_state_dict(Path("~/model"))["weight"].tolist()
    )


def test_errors(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint the error says so; without torch it names the extra, before anything is looked for."""
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load_state_dict(tmp_path / "absent")
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else known(name, *rest)
    )
    with pytest.raises(
        UnsupportedError, match=r"torch tensors need the package torch.*pip install 'dovetail\[torch\]'"
    ):
        load_state_dict(folder)

"""Equal headers and indexes are parsed once while several checkpoints are opened, and anew for each later recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail.io import read_checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.formats import header, index
from dovetail.io.formats.parsed import headers_shared, parsed_once
from tests.io.samples import write_shards

FILE = "model-00001-of-00001.safetensors"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List what JSON is decoded of: headers and indexes."""
    found: list[str] = []
    for module in (header, index):
        decode = module.decode_json

        def counting(raw: bytes, name: str = module.__name__.rpartition(".")[2], decode: object = decode) -> object:
            found.append(name)
            return decode(raw)  # type: ignore[operator]

        monkeypatch.setattr(module, "decode_json", counting)
    return found


def write_model(folder: Path) -> Path:
    """Write a checkpoint of one file with an index."""
    return write_shards(folder, {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)})


def test_equal_files_are_parsed_once(tmp_path: Path, parsed: list[str]) -> None:
    """Of three models with one header and one index, each is decoded once, and every source is in its own file."""
    folders = [write_model(tmp_path / name) for name in "abc"]
    with headers_shared(), headers_shared():
        models = [read_checkpoint(folder) for folder in folders]
    assert ["header", "index"] == sorted(parsed)
    for folder, model in zip(folders, models, strict=True):
        assert {str(folder / FILE)} == {info.source.path for info in model.tensors.values()}


def test_nothing_is_kept_after_the_block(tmp_path: Path, parsed: list[str]) -> None:
    """What is opened outside a block, or in another one, is decoded anew."""
    folder = write_model(tmp_path / "a")
    for _ in range(2):
        with headers_shared():
            read_checkpoint(folder)
    read_checkpoint(folder)
    assert ["header"] * 3 + ["index"] * 3 == sorted(parsed)


def test_an_index_is_checked_against_every_model(tmp_path: Path) -> None:
    """A model that has the index of another one, and other files, is refused as it is alone."""
    good, bad = write_model(tmp_path / "good"), write_model(tmp_path / "bad")
    (bad / FILE).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with headers_shared():
        read_checkpoint(good)
        with pytest.raises(CheckpointError, match="it is in none of the files"):
            read_checkpoint(bad)


def test_errors_are_not_shared() -> None:
    """What could not be parsed is tried again."""
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ValueError("no JSON")

    with headers_shared():
        for _ in range(2):
            with pytest.raises(ValueError, match="no JSON"):
                parsed_once("key", fail)
    assert 2 == len(tries)

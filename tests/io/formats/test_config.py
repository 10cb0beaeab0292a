"""A model's config.json is read with the same limit and the same errors, wherever the checkpoint is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.io import read_checkpoint
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError, IndexFileError
from dovetail.io.formats import config as module
from dovetail.io.formats.config import config_of, read_config
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.server import serve

Write = Callable[[Path], object]

DEFECTS: dict[str, tuple[Write, str, type[CheckpointError]]] = {
    "empty": (lambda path: path.write_bytes(b""), ": is not JSON", CheckpointError),
    "cut short": (lambda path: path.write_bytes(b'{"a": 1'), ": is not JSON", CheckpointError),
    "no text": (lambda path: path.write_bytes(b"\xff"), ": is not UTF-8", CheckpointError),
    "too deep": (lambda path: path.write_bytes(b"[" * 100_000), ": is nested too deeply", CheckpointError),
    "said twice": (lambda path: path.write_bytes(b'{"a": 1, "a": 2}'), "'a'", CheckpointError),
    "a list": (lambda path: path.write_bytes(b"[1]"), ": ", CheckpointError),
    "a number": (lambda path: path.write_bytes(b"7"), ": ", CheckpointError),
    "a pipe": (os.mkfifo, ": not a regular file", CheckpointError),
    "a folder": (os.mkdir, ": ", CheckpointError),
    "elsewhere": (lambda path: path.symlink_to("../secret.json"), " leads outside its folder", IndexFileError),
}
"""What stands in place of a configuration, what the error says of it, and its class."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a checkpoint without a configuration."""
    made = write_checkpoint(tmp_path / "model", llama_tensors(0))
    (made / "config.json").unlink()
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    return made


def test_a_missing_configuration_is_none(folder: Path) -> None:
    """A folder without the file has no configuration, and neither has a single file, even beside a config.json."""
    assert read_config(folder) is None
    assert config_of(read_checkpoint(folder)) is None
    (folder / "config.json").write_text("{")
    assert config_of(read_checkpoint(folder / "model.safetensors")) is None


def test_a_configuration_is_an_object(folder: Path) -> None:
    """The configuration is what the file says, even infinite limits, and each call gives a new object."""
    (folder / "config.json").write_text('{"vocab_size": 5, "limit": Infinity}')
    checkpoint = read_checkpoint(folder)
    first = config_of(checkpoint)
    assert {"vocab_size": 5, "limit": float("inf")} == first
    first["vocab_size"] = 6
    assert {"vocab_size": 5, "limit": float("inf")} == config_of(checkpoint)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_told_alike_by_all_readers(folder: Path, defect: str) -> None:
    """Opening a checkpoint and reading the configuration of an open one raise the same error."""
    write, text, kind = DEFECTS[defect]
    write(folder / "config.json")
    open_already = Checkpoint(folder, folder, {}, {}, ())
    errors = []
    for read in (lambda: read_config(folder), lambda: config_of(open_already), lambda: read_checkpoint(folder)):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert kind is type(caught.value)
        assert str(folder / "config.json") in str(caught.value)
        assert text in str(caught.value)
        errors.append(str(caught.value))
    assert 1 == len(set(errors))


def test_the_limit_is_the_same_here_and_afar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder and at an address, as many bytes as the limit are read, and one more is refused."""
    monkeypatch.setattr(module, "MAX_CONFIG_BYTES", 100)
    monkeypatch.setattr(sys.modules["dovetail.io.formats.quantised.dequantise"], "MAX_CONFIG_BYTES", 100)
    fits = json.dumps({"a": "x" * 91})
    assert 100 == len(fits)
    with serve(folder.parent) as site:
        for place in (folder, f"{site.address}/model"):
            (folder / "config.json").write_text(fits)
            assert {"a": "x" * 91} == config_of(read_checkpoint(place))
            (folder / "config.json").write_text(fits + " ")
            with pytest.raises(CheckpointError, match=r"model/config\.json: is larger than 100 bytes"):
                read_checkpoint(place)


def test_remote_defects_name_the_address(folder: Path) -> None:
    """A damaged configuration on a server raises the same error, with the address."""
    (folder / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError) as here:
        read_checkpoint(folder)
    with serve(folder.parent) as site, pytest.raises(CheckpointError) as afar:
        read_checkpoint(f"{site.address}/model")
    assert str(here.value).replace(str(folder), "PLACE") == str(afar.value).replace(f"{site.address}/model", "PLACE")

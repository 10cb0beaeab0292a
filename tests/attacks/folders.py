"""Checkpoint folders with what no checkpoint has, and what must be said about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dovetail.io.errors import CheckpointError, HeaderError, IndexFileError, MissingFileError
from tests.attacks.indexes import INDEX, save

FILE = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class FolderAttack:
    """One hostile checkpoint folder."""

    id: str
    """What is wrong with it, in a word or two."""
    build: Callable[[Path], object]
    """Makes the checkpoint in a folder with a good single file, beside which a file ``secret.json`` lies."""
    text: str
    """Part of the error's text."""
    error: type[CheckpointError] = CheckpointError
    """The error."""


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something else in the place of a file."""

    def build(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return build


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _indexed(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put something in the place of an index."""

    def build(folder: Path) -> None:
        (folder / FILE).unlink()
        make(folder / INDEX)

    return build


def _shard_in_folder(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / "a.safetensors").mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))


def _two_files(folder: Path) -> None:
    (folder / FILE).rename(folder / "a.safetensors")
    save(folder / "b.safetensors", "w")


FOLDER_ATTACKS = (
    FolderAttack("weights are a pipe", _instead(FILE, os.mkfifo), "is not a regular file", HeaderError),
    FolderAttack("weights are a folder", _instead(FILE, os.mkdir), "is not a regular file", HeaderError),
    FolderAttack("shard is a folder", _shard_in_folder, "is not a regular file", HeaderError),
    FolderAttack(
        "weights are a device",
        _instead(FILE, _device),
        "leads outside its folder, to /dev/zero",
        IndexFileError,
    ),
    FolderAttack("terabyte of zeros", _instead(FILE, _sparse), "is not JSON", HeaderError),
    FolderAttack("index is a pipe", _indexed(os.mkfifo), "(not a regular file)", MissingFileError),
    FolderAttack("index is a folder", _indexed(os.mkdir), "(not a regular file)", MissingFileError),
    FolderAttack(
        "index is a device", _indexed(lambda path: path.symlink_to("/dev/zero")), "(not a regular", MissingFileError
    ),
    FolderAttack("index of a terabyte", _indexed(_sparse), "is too large; expected at most", IndexFileError),
    FolderAttack("configuration is a pipe", _instead(CONFIG, os.mkfifo), "config.json: not a regular file"),
    FolderAttack("configuration is a folder", _instead(CONFIG, os.mkdir), "config.json: "),
    FolderAttack("configuration of a terabyte", _instead(CONFIG, _sparse), "is larger than 67108864 bytes"),
    FolderAttack(
        "configuration elsewhere",
        _instead(CONFIG, lambda path: path.symlink_to("../secret.json")),
        "config.json is a link that leads outside its folder",
        IndexFileError,
    ),
    FolderAttack("two files", _two_files, "has 2 .safetensors files and no index", MissingFileError),
)

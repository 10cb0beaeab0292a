"""PyTorch files: their archives, and the pickles in them.

PyTorch lists the tensors in this process and not in a child, which would take seconds for every input.
"""

from __future__ import annotations

import io
import random
import warnings
import zipfile
from pathlib import Path
from unittest.mock import patch

import torch

from dovetail.io.errors import TorchFileError
from dovetail.io.formats import torch_catalogue, torch_reader
from dovetail.io.formats.header import open_regular
from dovetail.io.formats.torch_zip import read_archive
from dovetail.io.opening import read_checkpoint
from tests.fuzz import Target

_MOST_READ = 24

_LONGEST_BYTES = 2_000
"""Longest pickle: PyTorch searches its own messages about longer ones in the square of their length."""


def _saved(content: object) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def _good() -> tuple[bytes, ...]:
    plain = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.arange(4, dtype=torch.bfloat16)[1:3]}
    across = torch.arange(12.0).reshape(3, 4).T
    return _saved(plain), _saved({"state_dict": {"w": torch.nn.Parameter(across)}, "epoch": 3})


def archive_target(home: Path) -> Target:
    """Archives by themselves; nothing unpickles what is in them."""
    path = home / "model.bin"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        with open_regular(path, TorchFileError, "a PyTorch file") as file, warnings.catch_warnings():
            warnings.simplefilter("error")  # what a file says must not reach the terminal as a warning
            read_archive(path, file, len(data))

    return Target("torch archive", _good(), use)


def pickle_target(home: Path) -> Target:
    """Pickles within a sound archive, whose tensors are read where they are taken."""
    path, archives = home / "model.bin", [zipfile.ZipFile(io.BytesIO(data)) for data in _good()]
    records = [{name: archive.read(name) for name in archive.namelist()} for archive in archives]
    places = [next(name for name in each if name.endswith("data.pkl")) for each in records]

    def use(data: bytes, chance: random.Random) -> None:
        data = data[:_LONGEST_BYTES]
        which = b"state_dict" in data
        archive = torch._C.PyTorchFileWriter(str(path))  # which leaves the room before storages that PyTorch expects
        for name, content in records[which].items():
            record = data if name == places[which] else content
            archive.write_record(name.partition("/")[2], record, len(record))
        archive.write_end_of_file()
        listed = lambda paths: [torch_catalogue.catalogue(each) for each in paths]  # noqa: E731 - a stand-in
        with patch.object(torch_reader, "list_tensors", listed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = read_checkpoint(path)
        for info in checkpoint.tensors.values():
            info.source.read(0, min(info.length, _MOST_READ))

    return Target("torch pickle", tuple(each[place] for each, place in zip(records, places, strict=True)), use)

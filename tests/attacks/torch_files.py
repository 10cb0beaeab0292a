"""PyTorch files that no honest program writes, and what must be said about them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dovetail.io.errors import CheckpointError, MissingFileError, TorchFileError, UnsupportedError

TRACE = "dovetail-attack-ran"
"""Name of the file that an attack makes in the current folder if its code runs."""


@dataclass(frozen=True, slots=True)
class TorchAttack:
    """One hostile file."""

    id: str
    """What is wrong with it, in a word or two."""
    build: Callable[[Path], object]
    """Makes the file."""
    text: str
    """Part of the error's text."""
    error: type[CheckpointError] = TorchFileError
    """The error."""


class _Runs:
    """Unpickled by an ordinary loader, runs a command."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def good() -> bytes:
    """Give a good file with one tensor."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(100, dtype=torch.float32)}, buffer)
    return buffer.getvalue()


def _hostile(*what: Any) -> Callable[[Path], object]:
    return lambda path: torch.save({"w": torch.ones(3), "x": _Runs(*what)}, path)


def _repacked(
    change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED
) -> Callable[[Path], object]:
    """Write the records of a good file anew, changed."""

    def build(path: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(good())) as archive:
            records = {record.filename: archive.read(record) for record in archive.infolist()}
        change(records)
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in records.items():
                archive.writestr(name, data)

    return build


def _patched(old: bytes, new: bytes) -> Callable[[Path], object]:
    """Change bytes of the description."""

    def change(records: dict[str, bytes]) -> None:
        name = next(name for name in records if name.endswith("data.pkl"))
        assert old in records[name]
        records[name] = records[name].replace(old, new)

    return _repacked(change)


def _short_storage(records: dict[str, bytes]) -> None:
    name = next(name for name in records if name.endswith("data/0"))
    records[name] = records[name][:40]


def _second_pickle(records: dict[str, bytes]) -> None:
    records["other/data.pkl"] = b"."


def _big_endian(records: dict[str, bytes]) -> None:
    records[next(name for name in records if name.endswith("byteorder"))] = b"big"


def _no_pickle(records: dict[str, bytes]) -> None:
    del records[next(name for name in records if name.endswith("data.pkl"))]


def _pickle(data: bytes) -> Callable[[Path], object]:
    def change(records: dict[str, bytes]) -> None:
        records[next(name for name in records if name.endswith("data.pkl"))] = data

    return _repacked(change)


def _huge_directory(path: Path) -> None:
    """Say that the directory, all of whose terabyte is there, is a terabyte long."""
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 2**40, 4)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4 + 2**40, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(4 + 2**40)
        file.seek(0, os.SEEK_END)
        file.write(end + locator + last)


def _legacy(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Runs(os.system, f"touch {TRACE}")))


TORCH_ATTACKS = (
    TorchAttack("runs a command", _hostile(os.system, f"touch {TRACE}"), "unsupported GLOBAL posix.system"),
    TorchAttack("evaluates", _hostile(eval, f"open('{TRACE}', 'w')"), "Unsupported global: GLOBAL eval"),
    TorchAttack("opens a file", _hostile(open, TRACE, "w"), "Unsupported global: GLOBAL"),
    TorchAttack("imports", _hostile(__import__, "antigravity"), "Unsupported global: GLOBAL"),
    TorchAttack("old format that runs a command", _legacy, "before PyTorch 1.6", UnsupportedError),
    TorchAttack("bare pickle", lambda path: path.write_bytes(pickle.dumps({"w": 1})), "not a zip", UnsupportedError),
    TorchAttack("garbage pickle", _pickle(b"\x80\x02garbage"), "cannot be read (Unsupported operand 103)"),
    TorchAttack("empty", lambda path: path.write_bytes(b""), "not a zip archive", UnsupportedError),
    TorchAttack("a pipe", os.mkfifo, "no checkpoint at", MissingFileError),
    TorchAttack("truncated", lambda path: path.write_bytes(good()[:-300]), "has no directory at its end"),
    TorchAttack("half", lambda path: path.write_bytes(good()[: len(good()) // 2]), "has no directory at its end"),
    TorchAttack("cut in front", lambda path: path.write_bytes(good()[:4] + good()[304:]), "is a damaged archive"),
    TorchAttack("huge directory", _huge_directory, "says its directory is 1099511627776 bytes long"),
    TorchAttack("compressed", _repacked(lambda records: None, zipfile.ZIP_DEFLATED), "uncompressed"),
    TorchAttack("short storage", _repacked(_short_storage), "lies outside its storage"),
    TorchAttack("longer than its storage", _patched(b"Kd\x85", b"K\xff\x85"), "lies outside its storage"),
    TorchAttack("two descriptions", _repacked(_second_pickle), "has 2 records data.pkl"),
    TorchAttack("no description", _repacked(_no_pickle), "has 0 records data.pkl"),
    TorchAttack("big endian", _repacked(_big_endian), "byte order b'big'", UnsupportedError),
)

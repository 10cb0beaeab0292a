"""Downloading the side files of remote checkpoints: the small files beside the weights."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dovetail.io.errors import CheckpointError
from dovetail.io.files.temporary import make_folder, remove_folder
from dovetail.io.formats.side_names import LARGEST_BYTES, is_side_name
from dovetail.io.remote.addresses import join
from dovetail.io.remote.transports import transport_of

LARGEST_TOTAL_BYTES: Final = 256 * 2**20
"""Most bytes of side files that are downloaded from one checkpoint."""


USUAL_NAMES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
)
"""Names of the files that are requested one by one from a server that cannot list its files."""

_MOST_FILES: Final = 200


@dataclass(frozen=True, slots=True, weakref_slot=True)
class RemoteSideFiles:
    """The side files of a remote folder, for one opening of its checkpoint (a `dovetail.io.checkpoint.SideFiles`)."""

    folder: str
    """Address of the folder."""
    opening: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False, repr=False)
    """Random name of the opening; when a checkpoint is opened again, its side files may have changed."""

    def fetch(self) -> Path:
        """Return a folder of this process that holds the files; see `dovetail.io.checkpoint.SideFiles`.

        The first call downloads them. The folder is removed with the last checkpoint that refers to these files, or at
        the end of the process.
        """
        with _lock:
            if (place := _fetched.get(self.opening)) is None:
                place = make_folder("dovetail-side-")
                weakref.finalize(self, _remove, self.opening, place)
                self._bring(place)
                _fetched[self.opening] = place
            return place

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """Read one file alone; see `dovetail.io.checkpoint.SideFiles`."""
        data = transport_of(self.folder).read_small(join(self.folder, name), limit_bytes)
        return None if data is None or _is_page(data) else data

    def _bring(self, place: Path) -> None:
        transport = transport_of(self.folder)
        listed = transport.list_files(self.folder)
        total = 0
        for name in _wanted(listed):
            data = transport.read_small(join(self.folder, name), LARGEST_BYTES)
            if data is None or (listed is None and _is_page(data)):
                continue
            total += len(data)
            if len(data) > LARGEST_BYTES or total > LARGEST_TOTAL_BYTES:
                raise CheckpointError(
                    f"{name} in {self.folder} is too large for a side file",
                    f"at most {LARGEST_BYTES} bytes each and {LARGEST_TOTAL_BYTES} in all",
                    "download the model, and remove what does not belong to it",
                )
            (place / name).write_bytes(data)


_lock = threading.Lock()
_fetched: dict[str, Path] = {}


def _remove(opening: str, place: Path) -> None:
    _fetched.pop(opening, None)
    remove_folder(place)


def _reset() -> None:
    """Make a new lock in a forked process: a thread that held the old one when the process forked is not in it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset)


def _wanted(listed: Mapping[str, int] | None) -> list[str]:
    """Choose the names of the files to download."""
    if listed is None:
        return list(USUAL_NAMES)
    plain = (name for name in listed if "/" not in name and "\0" not in name and len(name) <= 255 and name)
    return sorted(name for name in plain if is_side_name(name) and listed[name] <= LARGEST_BYTES)[:_MOST_FILES]


def _is_page(data: bytes) -> bool:
    """Whether a server sent a web page, with status 200, in place of a missing file."""
    return data[:64].lstrip().lower().startswith((b"<!doctype html", b"<html"))

"""What an output was made of: once as anybody can check it, and once as this machine has it.

The manifest names every input as the recipe does, and its files by what does not change when they are copied elsewhere.
Where the inputs lay, when their files were written and which version a server said they were of is kept apart, in the
record of the inputs: by it the same command knows the output again, and a part of it can be computed again. An output
without its record, as on a hub, is as whole as one with it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail.engine.planning.locations import hub_model
from dovetail.engine.recipe import ModelRef
from dovetail.io.checkpoint import Checkpoint, FileFingerprint
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.files.durable import write_durably
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json

INPUTS_NAME: Final = "dovetail_inputs.json"
"""File name of the record of the inputs in the output folder."""

_FORMAT: Final = "dovetail-inputs"
_LONGEST_BYTES: Final = 2**26
_NO_FILE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""Errors that say that there is no regular file of this name."""


def input_entries(checkpoints: Iterable[Checkpoint], references: Sequence[ModelRef]) -> list[dict[str, Any]]:
    """Describe checkpoints as this machine has them, each with the name that the recipe gives it.

    Parameters
    ----------
    checkpoints
        What was read.
    references
        The recipe's references, in the same order; checkpoints beyond them are named by their places.

    """
    found = []
    for index, checkpoint in enumerate(checkpoints):
        found.append(_input_entry(checkpoint, references[index] if index < len(references) else None))
    return found


def _input_entry(checkpoint: Checkpoint, ref: ModelRef | None) -> dict[str, Any]:
    place = str(checkpoint.path)
    named = place if ref is None or checkpoint.remote else _named(ref.path, ref.revision)
    entry: dict[str, Any] = {"name": named, "checkpoint": place}
    if hub := hub_model(checkpoint.path):
        entry["hub"] = hub
    entry["files"] = _file_entries(checkpoint.files)
    if (adapter := checkpoint.adapter) is not None:
        folder = str(adapter.folder)
        entry["adapter"] = {
            "name": folder if ref is None or ref.lora is None else _named(ref.lora, ref.lora_revision),
            "folder": folder,
            **({"hub": hub} if (hub := hub_model(adapter.folder)) else {}),
            "files": _file_entries(adapter.files),
        }
    return entry


def _named(path: str, revision: str | None) -> str:
    return f"{path}@{revision}" if revision else path


def _file_entries(files: Iterable[FileFingerprint]) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "size_bytes": file.size_bytes, "header_hash": file.header_hash}
        | ({"etag": file.etag} if file.etag else {"mtime_ns": file.mtime_ns})
        for file in files
    ]


def portable(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out of descriptions of inputs what belongs to this machine: places, times and versions of a server."""
    return [_portable(entry) for entry in entries]


def _portable(entry: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"checkpoint": entry["name"]}
    if "hub" in entry:
        found["hub"] = entry["hub"]
    found["files"] = portable_files(entry["files"])
    if "adapter" in entry:
        adapter = entry["adapter"]
        hub = {"hub": adapter["hub"]} if "hub" in adapter else {}
        found["adapter"] = {"folder": adapter["name"], **hub, "files": portable_files(adapter["files"])}
    return found


def portable_files(files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Describe files by what does not change when they are copied elsewhere."""
    return [{key: file[key] for key in ("name", "size_bytes", "header_hash")} for file in files]


@dataclass(frozen=True, slots=True)
class InputRecord:
    """What an output was made of, as the machine that made it has it."""

    request_hash: str
    """Hash of all that decides the output, places and times of its inputs included."""
    inputs: tuple[Mapping[str, Any], ...]
    """The inputs, as `input_entries` describes them."""
    stages: tuple[Mapping[str, Any], ...] = ()
    """Of each stage its name, and under ``inputs`` its inputs."""


def write_record(folder: Path, record: InputRecord, manifest_checksum: str) -> None:
    """Write the record of an output's inputs, durably; the checksum says to which manifest it belongs."""
    content = {
        "format": _FORMAT,
        "format_version": 1,
        "about": "Where and when this output's inputs lay: of use on the machine that made it, and else to nobody.",
        "manifest_checksum": manifest_checksum,
        "request_hash": record.request_hash,
        "inputs": list(record.inputs),
        "stages": list(record.stages),
    }
    content["checksum"] = _checksum(content)
    write_durably(folder / INPUTS_NAME, json.dumps(content, indent=1).encode() + b"\n")


def read_record(folder: Path, manifest_checksum: str) -> InputRecord | None:
    """Read the record of an output's inputs; None if it is gone, damaged, or that of another manifest.

    Raises
    ------
    OSError
        The disk fails, or the file may not be read: that says nothing of what the output was made of.

    """
    try:
        content = decode_json(read_at_most(folder / INPUTS_NAME, _LONGEST_BYTES))
    except JsonDefectError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if (content.get("format"), content.get("manifest_checksum")) != (_FORMAT, manifest_checksum):
        return None
    if content.pop("checksum", None) != _checksum(content):
        return None
    try:
        return InputRecord(str(content["request_hash"]), tuple(content["inputs"]), tuple(content["stages"]))
    except (KeyError, TypeError):
        return None


def _checksum(content: Mapping[str, Any]) -> str:
    return hex_checksum(json.dumps(content, sort_keys=True).encode())

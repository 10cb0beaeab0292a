"""The journals of the parts of a merge: one for each process that ever worked on it, which it alone writes.

All of them together say what is done. An entry may stand in several, if two processes have made the same chunk: their
results are the same.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from dovetail.engine.run.journal import JOURNAL_NAME, RowFile, entry_bytes, take_entries
from dovetail.engine.run.parts.folder import divisions
from dovetail.engine.run.parts.part import Part
from dovetail.engine.run.records import RecordTable
from dovetail.io.files.durable import sync_folder
from dovetail.io.files.outfile import naming, write_all
from dovetail.io.files.smallfile import is_named
from dovetail.io.files.strict_json import JsonDefectError, decode_json

_BLOCK_ENTRIES: Final = 4096
_LONGEST_LINE_BYTES: Final = 64 * 2**20
_NAME: Final = re.compile(r"([0-9]+)\.[^/]*\.[0-9a-f]{8}")


class PartJournal(RowFile):
    """The journal of this process, open for appending."""

    @classmethod
    def create(cls, division: Path, part: Part, plan_hash: str, table: RecordTable) -> Self:
        """Make the journal of a process that begins to work on a part, durably."""
        host, process = socket.gethostname(), os.getpid()
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", host.partition(".")[0])[:40]
        path = division / f"{part.number}.{plain}.{process}.{uuid.uuid4().hex[:8]}"
        header = {
            "format": "dovetail-journal",
            "plan_hash": plan_hash,
            "part": str(part),
            "host": host,
            "process": process,
            "began": time.time(),
        }
        file = open(path, "xb")  # noqa: SIM115, PTH123  stays open for the merge
        journal = cls(file, path, table)
        with naming(path):
            write_all(file.fileno(), memoryview(json.dumps(header).encode() + b"\n"), 0)
            file.seek(0, os.SEEK_END)
            os.fsync(file.fileno())
        sync_folder(division)
        return journal


@dataclass(frozen=True, slots=True)
class JournalFile:
    """A journal that any process may read, while it grows."""

    path: Path
    """Its file."""
    header: dict[str, Any]
    """What its first line says."""
    begin: int
    """Position of the first entry."""
    size_bytes: int
    """Size of the file when it was looked at."""
    changed: float
    """When it was last written to, in seconds since the epoch."""

    def blocks(self, entry_bytes: int, begin: int | None = None) -> Iterator[bytes]:
        """Read the entries from a position on, block by block; each block but the last has whole entries."""
        with open(self.path, "rb") as file, naming(self.path):  # noqa: PTH123
            file.seek(self.begin if begin is None else begin)
            while block := file.read(_BLOCK_ENTRIES * entry_bytes):
                yield block


def journals(staging: Path, plan_hash: str, part: Part | None = None) -> Iterator[JournalFile]:
    """Look at the journals of a plan: those of parts, and that of a process that began it alone.

    Every file is opened anew, which on network file systems shows what other machines have written by then. A journal
    whose first line is torn or is that of another plan says nothing.

    Parameters
    ----------
    staging
        The staging folder.
    plan_hash
        The plan's hash.
    part
        Leave out those of other parts of the same division, which have no chunk of this part; None for all.

    """
    whole = staging / JOURNAL_NAME
    paths = [whole] if is_named(whole) else []
    for count, division in divisions(staging).items():
        number = None if part is None or part.count != count else str(part.number)
        found = {path: _NAME.fullmatch(path.name) for path in sorted(division.iterdir())}
        paths += [path for path, name in found.items() if name and number in (None, name[1])]
    for path in paths:
        with open(path, "rb") as file, naming(path):  # noqa: PTH123
            line = file.readline(_LONGEST_LINE_BYTES)
            status = os.fstat(file.fileno())
        if (header := _header(line)).get("plan_hash") == plan_hash:
            yield JournalFile(path, header, len(line), status.st_size, status.st_mtime)


def read_journals(staging: Path, plan_hash: str, table: RecordTable, part: Part | None = None) -> None:
    """Fill in the rows of all chunks that any journal has, or any that may have chunks of a part; see `journals`."""
    size = entry_bytes(table)
    for journal in journals(staging, plan_hash, part):
        for block in journal.blocks(size):
            if take_entries(block, table) * size < len(block):
                break  # the entries after a torn one are not known to be whole


def count_entries(staging: Path, plan_hash: str, table: RecordTable) -> int:
    """Count the entries of all journals, without reading them: as many as there are chunks, or more, if all is done."""
    size = entry_bytes(table)
    return sum((journal.size_bytes - journal.begin) // size for journal in journals(staging, plan_hash))


def _header(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        return {}
    try:
        found = decode_json(line)
    except JsonDefectError:
        return {}
    return found if isinstance(found, dict) else {}

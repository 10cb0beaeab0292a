"""The journal of an unfinished output: which of its chunks are done, with their checksums and statistics.

The journal is an append-only file in the staging folder. One line of JSON identifies the plan. Entries of fixed size
follow; each has a row number, the row of the `RecordTable`, and a checksum of both. An entry is appended only after
the bytes of its chunk are durable. When the journal is opened again, a torn or damaged end is cut off, and the chunks
of the lost entries are computed again.

It is kept by hand, not in SQLite, because SQLite depends on file locks that network file systems often lack or get
wrong, and an output may be on one of them. Only one process at a time appends to the journal, and the checksums show
which entries are whole, so nothing has to be locked within the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dovetail.engine.errors import OutputError
from dovetail.engine.methods.method import plug_in_entry
from dovetail.engine.planning.plan import MATHS_VERSION, Plan
from dovetail.engine.run.records import RecordTable, are_possible
from dovetail.io.files.kinds import MISSING, unlike_a_file
from dovetail.io.files.outfile import naming

JOURNAL_NAME = "dovetail_journal"
"""File name of the journal in the staging folder."""

_LONGEST_LINE_BYTES = 64 * 2**20
_NUMBER_BYTES = 8
_CHECKSUM_BYTES = 8


class Journal:
    """A journal that is open for appending.

    Parameters
    ----------
    path
        The journal's file; it is made if it is not there.
    plan
        The plan that is run.
    table
        Receives the rows of the chunks that the journal has as done.

    Raises
    ------
    OutputError
        The file is the journal of another plan; the message says what differs.

    """

    def __init__(self, path: Path, plan: Plan, table: RecordTable) -> None:
        self._table, self._path = table, path
        self._entry_bytes = _NUMBER_BYTES + table.rows.dtype.itemsize + _CHECKSUM_BYTES
        if (fault := unlike_a_file(path)) not in ("", MISSING):
            raise OutputError(f"the journal {path} {fault}", "the journal of an unfinished output", "pass --restart")
        self._file = open(path, "a+b")  # noqa: SIM115, PTH123  stays open for the merge
        try:
            self.resumed_rows = self._load(path, plan)
        except BaseException:
            self._file.close()
            raise

    def append(self, numbers: NDArray[np.int64]) -> None:
        """Append rows of the table, by their numbers, durably; the bytes of their chunks must be durable already."""
        entries = bytearray()
        for number in numbers:
            body = int(number).to_bytes(_NUMBER_BYTES, "little") + self._table.rows[number].tobytes()
            entries += body + xxhash.xxh3_64_digest(body)
        with naming(self._path):
            self._file.write(entries)
            self._file.flush()
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the journal's file."""
        with naming(self._path):
            self._file.close()

    def _load(self, path: Path, plan: Plan) -> int:
        """Read the entries of an earlier run, or begin a new journal; return the number of entries found."""
        self._file.seek(0)
        content = self._file.read(_LONGEST_LINE_BYTES + len(self._table.rows) * self._entry_bytes)
        line, newline, body = content.partition(b"\n")
        header = identity(plan)
        if not newline or (not body and line != json.dumps(header).encode()):
            # No chunk was journalled, so that a new journal loses nothing.
            with naming(path):
                self._file.truncate(0)
                self._file.write(json.dumps(header).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            return 0
        _check_identity(path, line, header)
        rows = self._read_entries(body)
        self._file.truncate(len(line) + 1 + rows * self._entry_bytes)
        return rows

    def _read_entries(self, body: bytes) -> int:
        """Copy the entries before the first damaged one into the table; return their number."""
        numbers: list[int] = []
        rows: list[bytes] = []
        for begin in range(0, len(body) - self._entry_bytes + 1, self._entry_bytes):
            entry = body[begin : begin + self._entry_bytes]
            number = int.from_bytes(entry[:_NUMBER_BYTES], "little")
            sound = xxhash.xxh3_64_digest(entry[:-_CHECKSUM_BYTES]) == entry[-_CHECKSUM_BYTES:]
            if not sound or number >= len(self._table.rows):
                break
            numbers.append(number)
            rows.append(entry[_NUMBER_BYTES:-_CHECKSUM_BYTES])
        found = np.frombuffer(b"".join(rows), self._table.rows.dtype)
        count = int(np.append(are_possible(found), False).argmin())  # those before the first that cannot be
        self._table.rows[numbers[:count]] = found[:count]
        return count


def identity(plan: Plan) -> dict[str, Any]:
    """Describe everything that must be the same for a merge to be continued, as a JSON object."""
    return {
        "format": "dovetail-journal",
        "plan_hash": plan.hash,
        "maths_version": MATHS_VERSION,
        "recipe": plan.recipe.to_json(),
        "options": {
            "dtype": plan.options.dtype,
            "seed": plan.options.seed,
            "keep_nonfinite": plan.options.keep_nonfinite,
            **plan.options.format.identity(),
        },
        "inputs": {
            f"{checkpoint.path}/{file.name}": [file.size_bytes, file.etag or file.mtime_ns, file.header_hash]
            for checkpoint in plan.checkpoints
            for file in checkpoint.files
        }
        | _tokenizer_files(plan),
        **plug_in_entry(plan.method),
    }


def _tokenizer_files(plan: Plan) -> dict[str, Any]:
    entries = plan.vocabulary.inputs() if plan.vocabulary else []
    files = {f"{item['checkpoint']}/{file['name']}": file["content_hash"] for item in entries for file in item["files"]}
    return files | {f"{item['checkpoint']}/config.json": item["vocab_size"] for item in entries}


def _check_identity(path: Path, line: bytes, header: dict[str, Any]) -> None:
    """Raise an error that names the first difference, if the journal is that of another plan."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    kinds = {"inputs": dict, "plug_in": dict}
    sound = isinstance(found, dict) and all(isinstance(found.get(key, kind()), kind) for key, kind in kinds.items())
    if not sound or found.get("format") != header["format"]:
        raise _changed(path, "the journal is damaged")
    if found.get("plan_hash") == header["plan_hash"]:
        return
    if found.get("maths_version") != header["maths_version"]:
        raise _changed(path, "it was begun by another version of Dovetail, which gives results with other bits")
    before, now = found.get("inputs", {}), header["inputs"]
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise _changed(path, f"the input {name} has changed since")
    if found.get("plug_in") != header.get("plug_in"):
        raise _changed(
            path,
            f"the method {header['recipe']['merge_method']} is that of {_plug_in_name(header)}, and was that of "
            f"{_plug_in_name(found)}",
        )
    for part in ("recipe", "options"):
        if found.get(part) != header[part]:
            raise _changed(path, f"the {part} {'are' if part == 'options' else 'is'} not the same")
    raise _changed(path, "the plan is not the same")


def _plug_in_name(header: Mapping[str, Any]) -> str:
    plug_in = header.get("plug_in")
    return "Dovetail" if plug_in is None else f"{plug_in.get('distribution')} {plug_in.get('version')}"


def _changed(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"unfinished output {path.parent} cannot be continued: {reason}",
        "the same recipe, options and inputs as before",
        "restore them, or pass --restart to begin anew",
    )

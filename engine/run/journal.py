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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dovetail.engine.errors import OutputError
from dovetail.engine.methods.method import plug_in_entry
from dovetail.engine.planning.plan import MATHS_VERSION, Plan
from dovetail.engine.run.records import RecordTable, are_possible
from dovetail.io.files.kinds import MISSING, unlike_a_file
from dovetail.io.files.outfile import naming
from dovetail.io.files.smallfile import read_at_most

JOURNAL_NAME = "dovetail_journal"
"""File name of the journal in the staging folder."""

_LONGEST_LINE_BYTES = 64 * 2**20
NUMBER_BYTES = 8
CHECKSUM_BYTES = 8


class RowFile:
    """A file that is open for appending rows of a table.

    Parameters
    ----------
    file, path
        The open file, and its place.
    table
        The table.

    """

    def __init__(self, file: IO[bytes], path: Path, table: RecordTable) -> None:
        self._file, self._path, self._table = file, path, table

    def append(self, numbers: NDArray[np.int64]) -> None:
        """Append rows of the table, by their numbers, durably; the bytes of their chunks must be durable already."""
        entries = bytearray()
        for number in numbers:
            body = int(number).to_bytes(NUMBER_BYTES, "little") + self._table.rows[number].tobytes()
            entries += body + xxhash.xxh3_64_digest(body)
        with naming(self._path):
            self._file.write(entries)
            self._file.flush()
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with naming(self._path):
            self._file.close()


class Journal(RowFile):
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
        if (fault := unlike_a_file(path)) not in ("", MISSING):
            raise OutputError(f"the journal {path} {fault}", "the journal of an unfinished output", "pass --restart")
        super().__init__(open(path, "a+b"), path, table)  # noqa: SIM115, PTH123  stays open for the merge
        try:
            self.resumed_rows = self._load(path, plan)
        except BaseException:
            self._file.close()
            raise

    def _load(self, path: Path, plan: Plan) -> int:
        """Read the entries of an earlier run, or begin a new journal; return the number of entries found."""
        self._file.seek(0)
        size = entry_bytes(self._table)
        content = self._file.read(_LONGEST_LINE_BYTES + len(self._table.rows) * size)
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
        check_identity(path, line, header)
        rows = take_entries(body, self._table)
        self._file.truncate(len(line) + 1 + rows * size)
        return rows


def entry_bytes(table: RecordTable) -> int:
    """Give the size of an entry."""
    return NUMBER_BYTES + int(table.rows.dtype.itemsize) + CHECKSUM_BYTES


def sound_entries(body: bytes, entry_bytes: int, rows: int) -> Iterator[tuple[int, bytes]]:
    """Give number and row of each entry before the first damaged one.

    Parameters
    ----------
    body
        Entries, one after another; what is not a whole entry at the end is left out.
    entry_bytes
        Size of an entry.
    rows
        Rows that there are: a greater number is damage.

    """
    for begin in range(0, len(body) - entry_bytes + 1, entry_bytes):
        entry = body[begin : begin + entry_bytes]
        number = int.from_bytes(entry[:NUMBER_BYTES], "little")
        if xxhash.xxh3_64_digest(entry[:-CHECKSUM_BYTES]) != entry[-CHECKSUM_BYTES:] or number >= rows:
            return
        yield number, entry[NUMBER_BYTES:-CHECKSUM_BYTES]


def take_entries(body: bytes, table: RecordTable) -> int:
    """Copy the entries before the first damaged one into a table; return their number."""
    found = list(sound_entries(body, entry_bytes(table), len(table.rows)))
    rows = np.frombuffer(b"".join(row for _, row in found), table.rows.dtype)
    count = int(np.append(are_possible(rows), False).argmin())  # those before the first that cannot be
    table.rows[[number for number, _ in found[:count]]] = rows[:count]
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


def check_identity(path: Path, line: bytes, header: dict[str, Any]) -> None:
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


def check_begun(path: Path, plan: Plan) -> None:
    """Refuse to continue the journal of another plan; one without entries, or that is not there, is of none.

    Raises
    ------
    OutputError
        The journal is that of another plan; the message says what differs.

    """
    try:
        content = read_at_most(path, _LONGEST_LINE_BYTES)
    except FileNotFoundError:
        return
    line, _, body = content.partition(b"\n")
    if body:
        check_identity(path, line, identity(plan))


def _plug_in_name(header: Mapping[str, Any]) -> str:
    plug_in = header.get("plug_in")
    return "Dovetail" if plug_in is None else f"{plug_in.get('distribution')} {plug_in.get('version')}"


def _changed(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"unfinished output {path.parent} cannot be continued: {reason}",
        "the same recipe, options and inputs as before",
        "restore them, or pass --restart to begin anew",
    )

"""The journal of an unfinished search: which candidates were evaluated, and what that gave.

The journal is an append-only file in the working folder. One line of JSON says what is searched and how. A line for
every evaluated candidate follows: JSON, a blank, and a checksum of that JSON. A line is durable before the candidate's
folder is removed. When the journal is opened again, a torn or damaged end is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.engine.errors import OutputError
from dovetail.engine.searching.evaluations import Evaluation
from dovetail.engine.searching.space import Value, Values
from dovetail.io.files.kinds import MISSING, unlike_a_file
from dovetail.io.files.outfile import naming
from dovetail.io.files.strict_json import brief

FORMAT: Final = "dovetail-search-journal"
"""Says in the first line what the file is."""
_LONGEST_BYTES: Final = 2**30
"""Most of the file that is read, in bytes."""


class SearchJournal:
    """A journal that is open for appending.

    Parameters
    ----------
    path
        The journal's file; it is made if it is not there.
    identity
        All that must be the same for the search to be continued, as a JSON object.

    Raises
    ------
    OutputError
        The file is the journal of another search, or of a merge; the message says what differs.

    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self.found: dict[int, tuple[Values, Evaluation]] = {}
        """What earlier runs have evaluated: values and outcome by the candidate's number."""
        if (fault := unlike_a_file(path)) not in ("", MISSING):
            raise OutputError(f"the journal {path} {fault}", "the journal of an unfinished search", "pass --restart")
        self._file = open(path, "a+b")  # noqa: SIM115, PTH123  stays open for the search
        try:
            self._load({"format": FORMAT, **identity})
        except BaseException:
            self._file.close()
            raise

    def append(self, number: int, values: Values, evaluation: Evaluation) -> None:
        """Append the outcome of a candidate, durably."""
        entry = {"number": number, "values": values, "result": evaluation.result, "failure": evaluation.failure}
        self._write(_line(json.dumps(entry).encode()))

    def close(self) -> None:
        """Close the journal's file."""
        with naming(self._path):
            self._file.close()

    def _write(self, data: bytes) -> None:
        with naming(self._path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _load(self, identity: Mapping[str, Any]) -> None:
        self._file.seek(0)
        head, newline, body = self._file.read(_LONGEST_BYTES).partition(b"\n")
        header = json.dumps(identity).encode()
        if not newline or (not body and head != header):
            # No candidate was journalled, so that a new journal loses nothing.
            with naming(self._path):
                self._file.truncate(0)
            self._write(header + b"\n")
            return
        _check_identity(self._path, head, json.loads(header))
        sound_bytes = len(head) + 1
        for line in body.splitlines(keepends=True):
            entry = _read_line(line)
            if entry is None:
                break
            number, values, evaluation = entry
            self.found[number] = values, evaluation
            sound_bytes += len(line)
        with naming(self._path):
            self._file.truncate(sound_bytes)


def _line(body: bytes) -> bytes:
    return body + b" " + xxhash.xxh3_64_hexdigest(body).encode() + b"\n"


def _read_line(line: bytes) -> tuple[int, Values, Evaluation] | None:
    """Read the line of a candidate; None if it is torn or damaged."""
    body, _, _ = line.rpartition(b" ")
    if line != _line(body):
        return None
    entry = json.loads(body)
    values = tuple(_value(value) for value in entry["values"])
    return entry["number"], values, Evaluation(entry["result"], entry["failure"])


def _value(value: Any) -> Value:
    found: Value = tuple(value) if isinstance(value, list) else value
    return found


def _check_identity(path: Path, line: bytes, identity: Mapping[str, Any]) -> None:
    """Raise an error that names the first difference, if the journal is that of another search."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _changed(path, "it holds something else than an unfinished search")
    for key, now in identity.items():
        if (before := found.get(key)) != now:
            if key in ("recipe", "plan"):
                what = "the recipe" if key == "recipe" else "an input or the version of Dovetail"
                raise _changed(path, f"{what} has changed since")
            raise _changed(path, f"{key.replace('_', ' ')} was {brief(before)} and is {brief(now)}")


def _changed(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"unfinished search {path.parent} cannot be continued: {reason}",
        "the same recipe, evaluator, options and inputs as before",
        "restore them, or pass --restart to begin anew",
    )

"""What `quality.py` has found so far, on the disk: an interrupted run continues, and hours add up over several runs.

Whatever costs time has a key: a checksum of all that decides it but the code, for which `quality_case.VERSION` stands:
raise it when a method or the training computes otherwise. Scores are lines of one file, appended as they are
found; models are files of their own, which get their names when they are complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def key_of(**what: Any) -> str:
    """Give the key of what is described: the same for the same values, in any order of names."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


class Cache:
    """Scores and models in a folder, for one process at a time; a context, which lets go of the folder.

    Parameters
    ----------
    folder
        Where they are; it is made if need be.

    Raises
    ------
    SystemExit
        Another process is using the folder.

    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SystemExit(f"{folder} is in use by another run; expected one at a time; wait for it") from None
        self._path = folder / "scores.jsonl"
        self._known = _read(self._path)
        self._file = self._path.open("a")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.close()

    def get(self, make: Callable[[], Any], **what: Any) -> Any:
        """Give what is known of a key, or else make it and keep it; it must be JSON."""
        key = key_of(**what)
        if key not in self._known:
            self._known[key] = made = make()
            self._file.write(json.dumps({"key": key, "value": made, "what": what}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._known[key]

    def file(self, suffix: str, make: Callable[[Path], None], **what: Any) -> Path:
        """Give the file of a key; if it is not there, have it made under another name first."""
        path = self.folder / f"{key_of(**what)}{suffix}"
        if not path.exists():
            growing = path.with_name(f"growing{suffix}")
            make(growing)
            growing.replace(path)
        return path


def _read(path: Path) -> dict[str, Any]:
    """Read the scores; a line that was cut short by a crash is cut off, so that the next one starts anew."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    lines = (json.loads(line) for line in data[:whole].splitlines())
    return {line["key"]: line["value"] for line in lines}

"""Everything below a folder, for comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dovetail.engine.output.inputs import INPUTS_NAME

Tree = dict[str, bytes | str]
"""Content of every file below a folder by its path; what a link leads to; "" for a folder."""


def tree(folder: Path) -> Tree:
    """Read everything below a folder; of records of inputs, what does not depend on when files were written."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = ""
        elif path.name == INPUTS_NAME:
            found[name] = _lasting(path.read_bytes())
        else:
            found[name] = path.read_bytes()
    return found


def _lasting(record: bytes) -> bytes:
    """Leave out of a record of inputs what depends on when the results of stages were written."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("mtime_ns", "request_hash", "checksum")
            return {key: cleaned(each) for key, each in value.items() if key not in left_out}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    return json.dumps(cleaned(json.loads(record))).encode()

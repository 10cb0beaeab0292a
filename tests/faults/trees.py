"""Everything below a folder, for comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MANIFEST = "dovetail_manifest.json"

Tree = dict[str, bytes | str]
"""Content of every file below a folder by its path; what a link leads to; "" for a folder."""


def tree(folder: Path) -> Tree:
    """Read everything below a folder; of manifests, what does not depend on when files were written."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = ""
        elif path.name == _MANIFEST:
            found[name] = _lasting(path.read_bytes())
        else:
            found[name] = path.read_bytes()
    return found


def _lasting(manifest: bytes) -> bytes:
    """Leave out of a manifest what depends on when the results of stages were written."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("mtime_ns", "self_checksum", "plan_hash")
            return {key: cleaned(each) for key, each in value.items() if key not in left_out}
        return [cleaned(each) for each in value] if isinstance(value, list) else value

    return json.dumps(cleaned(json.loads(manifest))).encode()

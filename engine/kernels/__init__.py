"""Compiled kernels; they import nothing of ours outside this folder.

Compiled code is kept in the user's cache folder, under a name that changes with any kernel's source: numba itself looks
only at the file of the function that is called, and would miss changes in those that it calls.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from numba.core import config as numba_config


def _cache_folder() -> str:
    """Give a folder for compiled code: the user's cache, else one that lives as long as this process."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = root / "dovetail" / f"kernels-{digest.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # not writable, or no home folder
        made = tempfile.mkdtemp(prefix="dovetail-kernels-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made


settings: Any = numba_config  # made at run time, so unknown to type checkers
if not settings.CACHE_DIR:
    settings.CACHE_DIR = _cache_folder()

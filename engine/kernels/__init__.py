"""Compiled kernels. They import nothing of Dovetail's from outside this folder.

Numba keeps the compiled code in the user's cache folder, in a subfolder that is named after a digest of the source of
all kernels. By itself, numba compares only the file of the function that is called, and would run outdated code after a
change in another file that this function calls into.
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
    """Choose a folder for compiled code: in the user's cache or, if that cannot be written, a temporary one."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = root / "dovetail" / f"kernels-{digest.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # the folder cannot be written, or the user has no home folder
        made = tempfile.mkdtemp(prefix="dovetail-kernels-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made


settings: Any = numba_config  # numba sets its attributes at run time, where type checkers cannot see them
if not settings.CACHE_DIR:
    settings.CACHE_DIR = _cache_folder()

"""The library `preload.c`: building it, loading it before everything else, and saying which call it strikes."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.strikes import Strike

_SOURCE = Path(__file__).with_name("preload.c")
_STATE_VARIABLE = "DOVETAIL_FAULTS"


class _Faults(ctypes.Structure):
    """The structure of the same name in `preload.c`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("armed", "kind", "number", "action", "error", "lasting", "struck")),
        ("total", ctypes.c_int64),
        ("counts", ctypes.c_int64 * 32),
        ("root", ctypes.c_char * 512),
        ("call", ctypes.c_char * 32),
        ("path", ctypes.c_char * 512),
    )


def compiler() -> str | None:
    """Give the path of a C compiler; None if this machine has none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def load_before_all(module: str) -> Path:
    """Begin this program anew with the library loaded before all others, unless it is that already.

    Parameters
    ----------
    module
        The module that this program runs, as for ``python -m``.

    Returns
    -------
    Path
        The library that is loaded, in a folder of its own, which the caller removes.

    """
    if hasattr(ctypes.CDLL(None), "dovetail_faults_use"):
        return Path(os.environ.pop("LD_PRELOAD"))  # a process that is started is watched only if it is said so
    found, library = compiler(), Path(tempfile.mkdtemp(prefix="dovetail-preload-")) / "preload.so"
    assert found is not None, "there is no C compiler"
    # OpenBLAS makes threads in every forked process, and where it cannot, sends the process SIGINT.
    environment = os.environ | {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([found, "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl", "-lpthread"], check=True)
    return os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


class Library:
    """The loaded library, and the memory that it shares with all processes that it watches.

    Parameters
    ----------
    folder
        Where to put the file that this memory is mapped from.
    root
        Calls count if they concern files below this folder.

    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._loaded: Any = ctypes.CDLL(None)
        self._file = folder / "faults"
        self._file.write_bytes(bytes(ctypes.sizeof(_Faults)))
        with self._file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._faults = _Faults.from_buffer(self._map)
        self._faults.root = os.fsencode(root)
        names = (ctypes.c_char * 512).in_dll(self._loaded, "dovetail_fault_kinds").value
        self.kinds = names.decode().split()

    def aim(self, strike: Strike) -> None:
        """Choose the call that is struck next, and begin to count from nothing."""
        faults = self._faults
        faults.armed = faults.struck = faults.total = 0
        faults.counts = (ctypes.c_int64 * 32)()
        faults.call = faults.path = b""
        faults.kind = -1 if strike.kind == "any" else self.kinds.index(strike.kind)
        faults.number, faults.action = strike.number, strike.action
        faults.error, faults.lasting = strike.error, strike.lasting

    def arm(self) -> None:
        """Let the library watch this process from now on."""
        self._loaded.dovetail_faults_use(ctypes.byref(self._faults))
        self._faults.armed = 1

    def disarm(self) -> None:
        """Let nothing happen any more, in whichever process."""
        self._faults.armed = 0

    def environment(self, library: Path) -> dict[str, str]:
        """Give the environment in which a new process is watched from its start on, and arm the library."""
        self._faults.armed = 1
        return {"LD_PRELOAD": str(library), _STATE_VARIABLE: str(self._file)}

    @property
    def counts(self) -> dict[str, int]:
        """The calls of each kind so far."""
        return {name: self._faults.counts[number] for number, name in enumerate(self.kinds)}

    @property
    def total(self) -> int:
        """All calls so far."""
        return int(self._faults.total)

    @property
    def struck(self) -> tuple[str, str] | None:
        """The call that was struck first, and the path that it concerned; None if none was."""
        if not self._faults.struck:
            return None
        return self._faults.call.decode(), os.fsdecode(self._faults.path)

"""Importing numpy for a command."""

from __future__ import annotations

import importlib
import os

from dovetail.io.files.collector import collector_paused


def load_numpy() -> None:
    """Import numpy without the threads that OpenBLAS starts for all cores, which spin for a while and are not needed.

    All linear algebra of ours is held to one thread for each caller (`dovetail.engine.methods.blas`). The environment
    stays as it was for the processes that the command starts.
    """
    name = "OPENBLAS_NUM_THREADS"
    chosen = name in os.environ
    os.environ.setdefault(name, "1")
    try:
        with collector_paused():
            importlib.import_module("numpy")
    finally:
        if not chosen:
            del os.environ[name]

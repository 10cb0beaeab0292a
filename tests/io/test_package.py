"""The package itself: what it exports, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

import dovetail.io


def test_public_names_exist() -> None:
    """Every name in ``__all__`` is there."""
    assert all(hasattr(dovetail.io, name) for name in dovetail.io.__all__)


def test_import_is_light() -> None:
    """Importing the package loads neither numpy nor zarr; opening the catalogue of a checkpoint loads no zarr."""
    code = (
        "import sys, dovetail.io; assert not {'numpy', 'zarr', 'ml_dtypes'} & set(sys.modules)\n"
        "import dovetail.io.checkpoint, dovetail.io.formats.safetensors_sink\n"
        "assert not {'zarr', 'ml_dtypes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")

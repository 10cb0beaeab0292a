"""Optional dependencies: one clear line where one is missing."""

from __future__ import annotations

import importlib.util

from dovetail.io.errors import UnsupportedError


def require(module: str, extra: str, what: str) -> None:
    """Check that an optional package is installed, without importing it.

    Parameters
    ----------
    module
        The package's import name.
    extra
        The extra of Dovetail that brings it.
    what
        What needs it, in the plural.

    Raises
    ------
    UnsupportedError
        It is not installed.

    """
    if importlib.util.find_spec(module) is None:
        raise UnsupportedError(
            f"{what} need the package {module}, which is not installed",
            f"the extra {extra!r}",
            f"pip install 'dovetail[{extra}]'",
        )

"""Checking that an optional dependency is installed before it is used."""

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
        The extra of Dovetail that installs the package.
    what
        The things that need the package, in the plural, for the message.

    Raises
    ------
    UnsupportedError
        The package is not installed; the message says how to install it.

    """
    if importlib.util.find_spec(module) is None:
        raise UnsupportedError(
            f"{what} need the package {module}, which is not installed",
            f"the extra {extra!r}",
            f"pip install 'dovetail[{extra}]'",
        )

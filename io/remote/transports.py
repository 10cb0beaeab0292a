"""Choosing the module that reads the files at an address, by the address's scheme."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from dovetail.io.remote.file import Transport

_MODULES: Final = {"s3": "s3_transport", "hf": "hub_transport"}
"""Modules of this folder by scheme; all other addresses are read by ``http_transport``."""


def transport_of(address: str) -> Transport:
    """Import and return the module that reads the files at an address.

    Raises
    ------
    UnsupportedError
        The module needs an extra that is not installed.

    """
    name = _MODULES.get(address.partition("://")[0], "http_transport")
    return cast(Transport, import_module(f"{__package__}.{name}"))

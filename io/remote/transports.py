"""Which module reads an address: by its scheme."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from dovetail.io.remote.file import Transport

_MODULES: Final = {"s3": "s3_transport", "hf": "hub_transport"}
"""Modules of this folder by scheme; all other addresses are read by ``http_transport``."""


def transport_of(address: str) -> Transport:
    """Give the module that reads an address; libraries are imported only now.

    Raises
    ------
    UnsupportedError
        The extra that it needs is not installed.

    """
    name = _MODULES.get(address.partition("://")[0], "http_transport")
    return cast(Transport, import_module(f"{__package__}.{name}"))

"""Checking those settings of codecs by which decoding would take memory that no chunk's shape accounts for."""

from __future__ import annotations

from typing import Any, Final

from dovetail.io.errors import ZarrError
from dovetail.io.files.strict_json import brief

_MAX_ELEMENT_BYTES: Final = 255
_LONGEST_NAME: Final = 16


def check_settings(name: str, settings: Any, where: str) -> None:
    """Check the settings of a codec of numcodecs.

    Parameters
    ----------
    name
        Name of the codec, as numcodecs has it.
    settings
        Its settings, from a document that is not trusted.
    where
        How messages name the document.

    Raises
    ------
    ZarrError
        The settings are no object; elements to shuffle have an absurd size; or differences are not of numbers, or are
        stored larger than the numbers themselves.

    """
    if type(settings) is not dict:
        raise _wrong(f"{where} has the codec {name} with the settings {brief(settings)}", "an object")
    if name == "shuffle":
        size = settings.get("elementsize", 4)
        if size is not None and (type(size) is not int or not 0 <= size <= _MAX_ELEMENT_BYTES):
            raise _wrong(f"{where} shuffles elements of {brief(size)} bytes", f"0 to {_MAX_ELEMENT_BYTES}")
    if name == "delta":
        decoded = settings.get("dtype")
        encoded = decoded if settings.get("astype") is None else settings["astype"]
        sizes = [_number_bytes(kind) for kind in (decoded, encoded)]
        if not all(sizes):
            raise _wrong(f"{where} has differences of {brief(decoded)} as {brief(encoded)}", "numbers, such as <f4")
        if sizes[1] > sizes[0]:
            raise _wrong(f"{where} has differences of {decoded} as the larger {encoded}", "a type that is not larger")


def _number_bytes(kind: Any) -> int:
    """Give the size of a number by the name of its dtype in numpy; 0 if that is no plain number."""
    if type(kind) is not str or len(kind) > _LONGEST_NAME:
        return 0
    import numpy as np  # not for the command's help, which knows the formats

    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError, SyntaxError):
        return 0
    return dtype.itemsize if dtype.kind in "iuf" and dtype.itemsize <= 8 else 0


def _wrong(what: str, expected: str) -> ZarrError:
    return ZarrError(what, expected, "write the checkpoint again")

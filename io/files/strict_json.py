"""Decoding JSON from untrusted files, which is refused if it is not one unambiguous object of bounded size.

The standard library parses the text, and this module adds the checks that it leaves out: by itself it keeps the last of
two values under one name in silence, accepts the constants NaN and Infinity, and bounds no number of values.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_JSON_VALUES = 2_000_000
"""About the most values that a text may hold: enough for 250,000 tensors. The limit bounds memory, because decoded
values can take 20 times as much memory as their text."""


class JsonDefectError(Exception):
    """A JSON text is refused; the message is worded to follow the text's name, as in "is not JSON"."""


def decode_json(raw: bytes, *, constants: bool = False) -> dict[str, Any]:
    """Decode a JSON object.

    Parameters
    ----------
    raw
        The text.
    constants
        Whether ``NaN`` and ``Infinity`` are accepted, which JSON does not have but Python writes.

    Raises
    ------
    JsonDefectError
        If `raw` is not UTF-8 or not JSON, is not an object, is nested too deeply, has more than `MAX_JSON_VALUES`
        values, or has an object in which a name stands twice, of which Python would silently take the last.

    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonDefectError(f"is not UTF-8 (byte {raw[error.start]:#04x} at {error.start})") from error
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_JSON_VALUES:
        raise JsonDefectError(f"has more than {MAX_JSON_VALUES:,} values")
    try:
        parse = None if constants else _refuse_constant
        document = json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=parse)
    except RecursionError as error:
        raise JsonDefectError("is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, and integers of more than 4,300 digits
        raise JsonDefectError(f"is not JSON ({error})") from error
    if type(document) is not dict:
        raise JsonDefectError(f"is a JSON {_KINDS.get(type(document), 'value')}")
    return document


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def brief(value: object) -> str:
    """Write a value from an untrusted file in at most 80 characters of ASCII."""
    if isinstance(value, (dict, list)) and len(value) > 100:
        return f"{_KINDS.get(type(value), 'object')} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonDefectError(f"has the name {brief(name)} twice")
            seen.add(name)
    return result


def _refuse_constant(constant: str) -> NoReturn:
    raise JsonDefectError(f"is not JSON ({constant} is no JSON number)")

"""Safetensors files that break one rule each, and what must be said about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dovetail.io.errors import CheckpointError, HeaderError, UnsupportedError


@dataclass(frozen=True, slots=True)
class HeaderAttack:
    """One hostile file."""

    id: str
    """What is wrong with it, in a word or two."""
    content: bytes
    """The whole file."""
    text: str
    """Part of the error's text."""
    error: type[CheckpointError] = HeaderError
    """The error."""


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Make a file of a header (bytes as they are, else as JSON) and data, with any claim about the header's length."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(body) if length is None else length).to_bytes(8, "little") + body + data


def tensor(begin: Any = 0, end: Any = 8, shape: Any = (2,), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


DATA = bytes(8)
_F32 = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def _one(name: str = "w", **fields: Any) -> bytes:
    return file_of({name: tensor(**fields)}, DATA)


def _without(field: str) -> dict[str, Any]:
    return {key: value for key, value in tensor().items() if key != field}


HEADER_ATTACKS = (
    HeaderAttack("empty file", b"", "is 0 bytes long; expected at least the 8 bytes"),
    HeaderAttack("seven bytes", bytes(7), "is 7 bytes long"),
    HeaderAttack(
        "header too large", file_of({}, length=100_000_001), "header is 100000001 bytes long; expected at most"
    ),
    HeaderAttack("header of 2^63", file_of(b"{}", length=2**63), "header is 9223372036854775808 bytes long"),
    HeaderAttack("header of 2^64-1", b"\xff" * 8, "header is 18446744073709551615 bytes long"),
    HeaderAttack("header truncated", file_of({"w": tensor()}, length=9000), "is truncated: it has"),
    HeaderAttack("no header", file_of(b""), "is not JSON"),
    HeaderAttack("not UTF-8", file_of(b'{"\xff": 1}'), "is not UTF-8 (byte 0xff at 2)"),
    HeaderAttack("byte order mark", file_of(b"\xef\xbb\xbf{}"), "is not JSON"),
    HeaderAttack("not JSON", file_of(b"{'w': 1}"), "is not JSON"),
    HeaderAttack("two documents", file_of(b"{} {}"), "is not JSON"),
    HeaderAttack("NaN", file_of(b'{"w": NaN}'), "NaN is no JSON number"),
    HeaderAttack("array", file_of([]), "is a JSON array; expected a JSON object"),
    HeaderAttack("string", file_of("w"), "is a JSON string"),
    HeaderAttack("null", file_of(None), "is a JSON null"),
    HeaderAttack("deep nesting", file_of(b'{"w":' + b"[" * 200_000), "is nested too deeply"),
    HeaderAttack("deep objects", file_of(b'{"w":' * 200_000), "is nested too deeply"),
    HeaderAttack("millions of values", file_of(b'{"w":[' + b"[]," * 2_000_000 + b"1]}"), "more than 2,000,000 values"),
    HeaderAttack("enormous integer", file_of(b'{"w":' + b"9" * 5000 + b"}"), "is not JSON"),
    HeaderAttack("name twice", file_of(f'{{"w":{_F32},"w":{_F32}}}'.encode(), DATA), "has the name 'w' twice"),
    HeaderAttack(
        "field twice",
        file_of(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', DATA),
        "has the name 'dtype' twice",
    ),
    HeaderAttack("tensor is a list", file_of({"w": []}), "tensor 'w'"),
    HeaderAttack("tensor is null", file_of({"w": None}), "is described by None"),
    HeaderAttack("no dtype", file_of({"w": _without("dtype")}, DATA), "exactly dtype, shape and data_offsets"),
    HeaderAttack("no shape", file_of({"w": _without("shape")}, DATA), "exactly dtype, shape and data_offsets"),
    HeaderAttack("no offsets", file_of({"w": _without("data_offsets")}, DATA), "exactly dtype, shape and"),
    HeaderAttack("unknown field", _one(extra=1), "exactly dtype, shape and data_offsets"),
    HeaderAttack("unknown dtype", _one(dtype="F31"), "tensor 'w' in {file} has the unknown dtype 'F31'"),
    HeaderAttack("dtype in lower case", _one(dtype="f32"), "unknown dtype 'f32'"),
    HeaderAttack("dtype is a list", _one(dtype=["F32"]), "unknown dtype ['F32']"),
    HeaderAttack("dtype is a number", _one(dtype=32), "unknown dtype 32"),
    HeaderAttack("complex", _one(dtype="C64", shape=(1,)), "has dtype C64 (complex numbers)", UnsupportedError),
    HeaderAttack("half a byte", _one(dtype="F4", shape=(3,)), "of F4 has the shape [3]; expected a whole number of"),
    HeaderAttack("packed floats as bytes", _one(dtype="F4", shape=(8,)), "has 8 bytes; expected 4 for shape"),
    HeaderAttack("six bits as four", _one(dtype="F6_E2M3", shape=(16,)), "has 8 bytes; expected 12 for shape"),
    HeaderAttack("other float8", _one(dtype="F8_E4M3FNUZ", shape=(8,)), "only some accelerators", UnsupportedError),
    HeaderAttack("shape is a number", _one(shape=2), "tensor 'w' in {file} has the shape 2"),
    HeaderAttack("shape is an object", _one(shape={}), "has the shape {}"),
    HeaderAttack("negative size", _one(shape=(-2,)), "has the shape [-2]"),
    HeaderAttack("two negative sizes", _one(shape=(-2, -1)), "has the shape [-2, -1]"),
    HeaderAttack("fractional size", _one(shape=(2.0,)), "has the shape [2.0]"),
    HeaderAttack("size is true", _one(shape=(True, 2)), "has the shape [True, 2]"),
    HeaderAttack("size of 2^63", _one(shape=(2**63,)), "has the shape [9223372036854775808]"),
    HeaderAttack("sizes that overflow to 2", _one(shape=(2**32, 2**32)), "has 8 bytes; expected 73786976294838206464"),
    HeaderAttack("hidden by a zero", _one(shape=(2**62, 2**62, 0), end=0), "a product of sizes below 2^63"),
    HeaderAttack("65 dimensions", _one(shape=(1,) * 65), "a list of at most 64 whole numbers"),
    HeaderAttack("one offset", file_of({"w": {**tensor(), "data_offsets": [8]}}, DATA), "data_offsets [8]"),
    HeaderAttack("three offsets", file_of({"w": {**tensor(), "data_offsets": [0, 8, 8]}}, DATA), "[0, 8, 8]"),
    HeaderAttack("offsets reversed", _one(begin=8, end=0), "has the data_offsets [8, 0]; expected two whole"),
    HeaderAttack("negative offset", _one(begin=-8, end=0), "has the data_offsets [-8, 0]"),
    HeaderAttack("fractional offset", _one(begin=0.0), "has the data_offsets [0.0, 8]"),
    HeaderAttack("offset is false", _one(begin=False), "has the data_offsets [False, 8]"),
    HeaderAttack("offset is a string", _one(end="8"), "has the data_offsets [0, '8']"),
    HeaderAttack("offset of 2^64", _one(begin=2**64, end=2**64 + 8), "has the data_offsets [18446744073709551616"),
    HeaderAttack("wrong size", _one(shape=(3,)), "tensor 'w' in {file} has 8 bytes; expected 12 for shape [3] of F32"),
    HeaderAttack(
        "outside the file",
        file_of({"w": tensor(end=16, shape=(4,))}, DATA),
        "tensor 'w' in {file} ends at byte 16, outside the file; expected at most 8 bytes",
    ),
    HeaderAttack("data truncated", file_of({"w": tensor()}, DATA[:7]), "probably truncated: download it again"),
    HeaderAttack(
        "gap between",
        file_of({"v": tensor(0, 4, (1,)), "w": tensor(8, 12, (1,))}, bytes(12)),
        "tensor 'w' in {file} begins at byte 8 and leaves a gap after tensor 'v'; expected byte 4",
    ),
    HeaderAttack(
        "gap before", file_of({"w": tensor(4, 12)}, bytes(12)), "leaves a gap after the header; expected byte 0"
    ),
    HeaderAttack(
        "overlap",
        file_of({"v": tensor(0, 8), "w": tensor(4, 12)}, bytes(12)),
        "tensor 'w' in {file} begins at byte 4 and overlaps tensor 'v'; expected byte 8",
    ),
    HeaderAttack("same bytes twice", file_of({"v": tensor(), "w": tensor()}, DATA), "overlaps tensor 'v'"),
    HeaderAttack(
        "bytes left over", file_of({"w": tensor()}, bytes(9)), "{file} has 9 bytes of tensor data; expected 8"
    ),
    HeaderAttack("data without tensors", file_of({}, DATA), "{file} has 8 bytes of tensor data; expected 0"),
    HeaderAttack("metadata is a list", file_of({"__metadata__": []}), "__metadata__ in the header of {file} is []"),
    HeaderAttack("metadata is nested", file_of({"__metadata__": {"a": {}}}), "expected an object of strings"),
    HeaderAttack("metadata is a number", file_of({"__metadata__": {"a": 1}}), "expected an object of strings"),
    HeaderAttack("NUL in a name", _one("a\0b"), "tensor name 'a\\x00b' in {file} has the character U+0000"),
    HeaderAttack("escape in a name", _one("a\x1b[2J"), "has the character U+001B"),
    HeaderAttack("line break in a name", _one("a\nb"), "has the character U+000A"),
    HeaderAttack("half a character", _one("a\ud800"), "has the character U+D800"),
    HeaderAttack(
        "slash in a name", _one("a/b"), "tensor name 'a/b' in {file} cannot be part of a path", UnsupportedError
    ),
    HeaderAttack("backslash in a name", _one("a\\b"), "cannot be part of a path", UnsupportedError),
    HeaderAttack("parent as a name", _one(".."), "tensor name '..' in {file} cannot be", UnsupportedError),
    HeaderAttack("enormous name", _one("w" * 100_000), "has 100000 characters ('wwww", UnsupportedError),
    HeaderAttack("no name", _one(""), "tensor name '' in {file} cannot be part of a path", UnsupportedError),
)

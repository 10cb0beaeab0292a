"""Chunks that Dovetail writes are decoded without zarr-python, to the same bytes, and no others are taken for them."""

from __future__ import annotations

import json
import struct
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest

from dovetail.io.dtypes import DTYPES, to_numpy
from dovetail.io.errors import ZarrError
from dovetail.io.zarr.codecs import encode_object, open_codec
from dovetail.io.zarr.direct import direct_codec
from dovetail.io.zarr.document import check_document
from dovetail.io.zarr.layout import CODECS, ArrayGrid, PlacedArray, array_document
from dovetail.io.zarr.shards import ShardIndexes

SHAPE = (5, 300)


def _document(codec: str, dtype: str, chunk: tuple[int, int] = (1, 300)) -> dict[str, Any]:
    grid = ArrayGrid((1, 300), chunk, 300, 1500)
    return array_document(PlacedArray("t", DTYPES[dtype], SHAPE, 0, grid), codec)


def _text(document: dict[str, Any]) -> bytes:
    checked = check_document(document, 3, "here")
    assert checked is not None
    return checked.text


def _row(dtype: str) -> np.ndarray[Any, Any]:
    stored = to_numpy(DTYPES[dtype])
    return (np.arange(300 * stored.itemsize) % 120).astype(np.uint8).view(stored).reshape(1, 300)


@pytest.mark.parametrize("dtype", ["U8", "F8_E4M3", "BF16", "F32", "F64"])
@pytest.mark.parametrize("codec", CODECS)
def test_what_dovetail_writes_is_decoded_as_by_zarr(codec: str, dtype: str) -> None:
    """The bytes and the names of objects are those that zarr-python gives."""
    text, row = _text(_document(codec, dtype)), _row(dtype)
    stored, direct = encode_object(text, (1, 300), (1, 300), row), direct_codec(text)
    assert direct is not None
    slow = open_codec(text, (1, 300), (1, 300), sharded=False)
    assert slow.key((3, 0)) == direct.key((3, 0))
    decoded, out = (
        slow.decode((0, 0), lambda *_: stored.tobytes(), ShardIndexes()),
        np.empty(direct.size_bytes, np.uint8),
    )
    direct.decode("c.0.0", stored.tobytes(), out)
    assert row.tobytes() == decoded.tobytes() == out.tobytes()


def _changed(**changes: Any) -> dict[str, Any]:
    return {**_document("zstd", "BF16"), **changes}


def _with_codecs(*codecs: Any) -> dict[str, Any]:
    return _changed(codecs=list(codecs))


BYTES, ZSTD, SUM = _document("zstd", "BF16")["codecs"]
OTHERS = {
    "another level": _with_codecs(BYTES, {"name": "zstd", "configuration": {"level": 3, "checksum": False}}, SUM),
    "no checksum": _with_codecs(BYTES, ZSTD),
    "two checksums": _with_codecs(BYTES, ZSTD, SUM, SUM),
    "big endian": _with_codecs({"name": "bytes", "configuration": {"endian": "big"}}, ZSTD, SUM),
    "transposed": _with_codecs({"name": "transpose", "configuration": {"order": [1, 0]}}, BYTES, ZSTD, SUM),
    "in folders": _changed(chunk_key_encoding={"name": "default", "configuration": {"separator": "/"}}),
    "filled otherwise": _changed(fill_value=1),
    "filled with a word": _changed(fill_value="many"),
    "filled with a truth": _changed(fill_value=False),
    "in shards": _document("zstd", "BF16", (1, 100)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_is_recognised(name: str) -> None:
    """Metadata that differs in anything that decides how a chunk is decoded is left to zarr-python."""
    assert direct_codec(_text(OTHERS[name])) is None


@pytest.mark.parametrize("codec", CODECS)
def test_no_damage_passes(codec: str) -> None:
    """A chunk with any byte changed, or cut short anywhere, is an error."""
    text = _text(_document(codec, "BF16"))
    stored, direct = encode_object(text, (1, 300), (1, 300), _row("BF16")).tobytes(), direct_codec(text)
    assert direct is not None
    out = np.empty(direct.size_bytes, np.uint8)
    damaged = [bytes((*stored[:i], stored[i] ^ 1, *stored[i + 1 :])) for i in range(len(stored))]
    for data in (*damaged, *(stored[:length] for length in range(len(stored)))):
        with pytest.raises(ZarrError, match=r"chunk c\.0\.0 cannot be decoded"):
            direct.decode("c.0.0", data, out)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 599, 601, 10**6])
def test_hostile_chunks_are_held_to_their_size(codec: str, size: int) -> None:
    """A chunk with a good checksum that decompresses to another size than its shape says is refused."""
    direct, raw = direct_codec(_text(_document(codec, "BF16"))), np.zeros(size, np.uint8)
    assert direct is not None
    inner = raw.tobytes() if codec == "none" else bytes(numcodecs.get_codec({"id": codec}).encode(raw))
    data = inner + struct.pack("<I", google_crc32c.value(inner))
    with pytest.raises(ZarrError, match=r"cannot be decoded"):
        direct.decode("c.0.0", data, np.empty(600, np.uint8))


def test_documents_are_those_that_are_written() -> None:
    """The metadata of the tests above is what stands in a file, so that it says what a reader finds."""
    document = _document("blosc", "BF16")
    assert document == json.loads(json.dumps(document))

"""Decoding the chunks that Dovetail itself writes, without zarr-python.

zarr-python takes about a millisecond of processor time for every chunk, however small, and a quarter of a second to
load. Metadata that says just what `dovetail.io.zarr.layout` writes is recognised here, and its chunks are decoded by
numcodecs: a checksum, and at most one compressor, held to the size of the chunk. All else is left to
`dovetail.io.zarr.codecs`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from dovetail.io.errors import ZarrError
from dovetail.io.zarr.bounds import Bounded
from dovetail.io.zarr.document import dtype_of
from dovetail.io.zarr.layout import CODECS, chunk_codecs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEYS: Final = {"name": "default", "configuration": {"separator": "."}}


@dataclass(frozen=True, slots=True)
class DirectCodec:
    """Decodes the chunks of one array, each of which is an object."""

    compressor: Bounded | None
    """Undoes the compression; None where there is none."""
    size_bytes: int
    """Bytes of a decoded chunk."""

    def key(self, position: tuple[int, ...]) -> str:
        """Name the object that holds the chunk at a position, within the array."""
        return ".".join(("c", *map(str, position)))

    def decode(self, key: str, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode a chunk.

        Parameters
        ----------
        key
            Its name, for messages.
        data
            The stored object.
        out : uint8[size_bytes]
            Receives the elements, little endian.

        Raises
        ------
        ZarrError
            The object is damaged.

        """
        from numcodecs.checksum32 import CRC32C

        try:
            inner: Any = CRC32C(location="end").decode(data)
            if self.compressor is not None:
                self.compressor.decode(inner, out)
            elif len(inner) == self.size_bytes:
                out.data[:] = memoryview(inner).cast("B")
            else:
                raise ValueError(f"it has {len(inner)} bytes, instead of {self.size_bytes}")
        except Exception as error:  # compressors raise errors of all classes
            raise ZarrError(
                f"chunk {key} cannot be decoded ({error})", "a chunk as its metadata says", "write the checkpoint again"
            ) from error


@lru_cache(maxsize=4096)
def direct_codec(text: bytes) -> DirectCodec | None:
    """Recognise metadata that Dovetail writes, of chunks that are objects.

    Parameters
    ----------
    text
        Metadata that was checked: `dovetail.io.zarr.document.ArrayDocument.text`.

    """
    document = json.loads(text)
    if document["zarr_format"] != 3 or document.get("chunk_key_encoding") != _KEYS:
        return None
    dtype = dtype_of(document["data_type"])
    if (fill := document.get("fill_value")) != 0 or isinstance(fill, bool) != (dtype.name == "BOOL"):
        return None
    itemsize = dtype.itemsize
    size = math.prod(document["chunk_grid"]["configuration"]["chunk_shape"]) * itemsize
    for codec in CODECS:
        codecs = chunk_codecs(codec, itemsize)
        if document["codecs"] == codecs:
            return DirectCodec(_compressor(codecs, size), size)
    return None


def _compressor(codecs: list[dict[str, Any]], size_bytes: int) -> Bounded | None:
    """Make the compressor of a chunk, which has to give just as many bytes as the chunk has."""
    import numcodecs

    for codec in codecs:
        name = codec["name"]
        if name in ("zstd", "blosc"):
            return Bounded(numcodecs.get_codec({"id": name}), size_bytes, exact=True)
    return None

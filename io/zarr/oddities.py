"""Saying what is odd about the chunks of arrays: that some are not stored, or that they are many and tiny.

By the rules of Zarr a chunk that is not stored counts as the fill value, whether or not it ever was. Writers
such as zarr-python leave out chunks all of whose elements are the fill value. An array that lacks some is therefore no
error, but a copy that is not complete looks just the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dovetail.io.zarr.tree import V2_NAME, V3_NAME

MANY_CHUNKS = 20_000
"""Chunks of a tensor that take seconds to read, whatever their size."""

TINY_BYTES = 2**14
"""Size of a chunk below which most of the time of reading it is spent on finding it."""

_DOCUMENTS = (V3_NAME, V2_NAME, ".zattrs")


def count_objects(arrays: Iterable[str], keys: Iterable[str]) -> Counter[str]:
    """Count, by the path of an array, the keys of a place that are chunks of it."""
    known, found = set(arrays), Counter[str]()
    for key in keys:
        path, _, name = key.rpartition("/")
        if name in _DOCUMENTS:
            continue
        while path not in known and path:
            path = path.rpartition("/")[0]
        if path in known:
            found[path] += 1
    return found


def tiny_note(label: str, tensors: Sequence[tuple[str, int, int]]) -> tuple[str, ...]:
    """Say which tensors are stored in so many and so small chunks that reading them takes long; nothing if none is.

    Parameters
    ----------
    label
        Name of the checkpoint.
    tensors
        Name of each tensor, how many chunks it has, and how many bytes each.

    """
    found = [each for each in tensors if each[1] > MANY_CHUNKS and each[2] < TINY_BYTES]
    if not found:
        return ()
    name, count, size_bytes = max(found, key=lambda each: each[1])
    others = f", and {len(found) - 1} more tensors alike" if len(found) > 1 else ""
    return (
        f"{label}: tensor {name!r} is stored in {count:,} chunks of {size_bytes:,} bytes{others}. Each takes about a "
        "ten-thousandth of a second to read, however small it is: larger chunks are quicker",
    )


def missing_note(label: str, lacking: Sequence[tuple[str, int, int]]) -> tuple[str, ...]:
    """Say which tensors lack chunks; nothing if none does.

    Parameters
    ----------
    label
        Name of the checkpoint.
    lacking
        Name of each such tensor, how many chunks are stored, and how many it has.

    """
    if not lacking:
        return ()
    name, stored, expected = lacking[0]
    others = f", and some of {len(lacking) - 1} more tensors," if len(lacking) > 1 else ""
    verb = "is" if expected - stored == 1 and not others else "are"
    return (
        f"{label}: {expected - stored} of {expected} chunks of tensor {name!r}{others} {verb} not stored, and read as "
        "the fill value. Writers leave out chunks that hold nothing else; if these did, the copy is not complete",
    )

"""Finding the chunks in a shard: its index says where each begins, and is kept while a read goes through the shard.

zarr-python reads the whole index for every chunk, which takes hours where a shard has a million of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.abc.store import ByteGetter
    from zarr.codecs import ShardingCodec

ENTRY_BYTES: Final = 16
"""Size of the entry of one chunk in an index: where it begins in the shard, and how long it is."""

KEPT_BYTES: Final = 2**20
"""Most bytes of indexes that one read keeps, unless a single index has more."""

_ABSENT: Final = 2**64 - 1


class ShardIndexes:
    """The indexes that one read has met; where they exceed `KEPT_BYTES`, those that were used longest ago are dropped.

    It is for one thread at a time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, NDArray[np.uint64] | None] = OrderedDict()
        self._kept_bytes = 0

    def get(self, key: str, load: Callable[[], NDArray[np.uint64] | None]) -> NDArray[np.uint64] | None:
        """Give the index of the shard with a key, loading it if it is not kept; None if there is no such shard."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        index = load()
        self._kept[key] = index
        self._kept_bytes += 0 if index is None else index.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= 0 if dropped is None else dropped.nbytes
        return index


async def load_index(codec: ShardingCodec, getter: ByteGetter, counts: tuple[int, ...]) -> NDArray[np.uint64] | None:
    """Read the index of a shard, of shape (*counts, 2); None if there is no such shard."""
    found: Any = await codec._load_shard_index_maybe(getter, counts)
    return None if found is None else np.asarray(found.offsets_and_lengths, np.uint64)


def chunk_range(index: NDArray[np.uint64], place: tuple[int, ...]) -> tuple[int, int] | None:
    """Give the first byte of a chunk within its shard, and one past its last; None if the shard does not hold it."""
    begin, length = (int(number) for number in index[place])
    return None if begin == length == _ABSENT else (begin, begin + length)

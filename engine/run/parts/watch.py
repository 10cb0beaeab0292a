"""How far all processes of a merge are, from what they have added to their journals since the last look.

No process has to say anything, and none is missed that has died. Every look opens anew what has grown, as network file
systems need it, and reads only what is new.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine import events
from dovetail.engine.run.journal import sound_entries
from dovetail.engine.run.parts.folder import PartsLayout
from dovetail.engine.run.parts.journals import journals
from dovetail.io.files.machine import resident_bytes

LOOK_S: Final = 1.0
"""Least seconds between two looks."""

_SHARE: Final = 0.05
"""Largest share of the time that looking may take."""


@dataclass
class Watch:
    """A merge in parts that is watched."""

    staging: Path
    """Its staging folder."""
    layout: PartsLayout
    """What its processes have agreed on."""
    began: float = field(default_factory=time.monotonic)
    """When watching began, by the monotonic clock."""

    def __post_init__(self) -> None:
        self.done: NDArray[np.bool_] = np.zeros(self.layout.rows[-1], np.bool_)
        self._read: dict[Path, int] = {}
        self._next = 0.0
        self._last_bytes = -1
        self.look()
        self._first_bytes = self._moved()

    def look(self) -> None:
        """Read what is new in the journals."""
        began, size = time.monotonic(), self.layout.entry_bytes
        try:
            for journal in journals(self.staging, str(self.layout.identity["plan_hash"])):
                position = self._read.get(journal.path, journal.begin)
                if journal.size_bytes - position < size:
                    continue
                for block in journal.blocks(size, position):
                    numbers = [number for number, _ in sound_entries(block, size, len(self.done))]
                    self.done[numbers] = True
                    position += len(numbers) * size
                    if len(numbers) * size < len(block):
                        break
                self._read[journal.path] = position
        except FileNotFoundError:  # it is being published
            self.done[:] = True
        now = time.monotonic()
        self._next = now + max(LOOK_S, (now - began) / _SHARE)

    def tell(self, listen: events.Listener, *, now: bool = False) -> None:
        """Tell how far all are, if enough time has passed since the last look and something has changed."""
        if not now and time.monotonic() < self._next:
            return
        self.look()
        moved = self._moved()
        if moved == self._last_bytes:
            return
        self._last_bytes = moved
        listen(
            events.Progress(
                done_bytes=moved - self._first_bytes,
                total_bytes=sum(self.layout.moved_bytes) - self._first_bytes,
                seconds=time.monotonic() - self.began,
                resident_bytes=resident_bytes(),
            )
        )

    def rows_done(self, shards: tuple[int, ...]) -> int:
        """Count the chunks of some shards that are done."""
        rows = self.layout.rows
        return sum(int(self.done[rows[shard] : rows[shard + 1]].sum()) for shard in shards)

    def rows_left(self, shards: tuple[int, ...]) -> int:
        """Count the chunks of some shards that are not done."""
        rows = self.layout.rows
        return sum(rows[shard + 1] - rows[shard] for shard in shards) - self.rows_done(shards)

    def _moved(self) -> int:
        """Count the bytes that have been read and written for what is done."""
        rows = np.array(self.layout.rows, np.int64)
        sums = np.concatenate(([0], np.cumsum(self.done, dtype=np.int64)))
        finished = (sums[rows[1:]] - sums[rows[:-1]]) / np.maximum(1, np.diff(rows))
        return int((np.array(self.layout.moved_bytes, np.float64) * finished).sum())

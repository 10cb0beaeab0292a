"""Pausing Python's garbage collector while a large catalogue is built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector during the block.

    Building a catalogue of 50,000 tensors makes some 500,000 objects, none of which is garbage. The collector would
    search them, and all other objects, again and again, which takes longer than building them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            # Freezing and unfreezing moves all objects to the oldest generation, without searching the new ones.
            gc.freeze()
            gc.unfreeze()
        gc.enable()

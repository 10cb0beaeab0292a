"""Pausing Python's garbage collector while a large catalogue is built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector.

    Building a catalogue of 50,000 tensors makes some 500,000 objects, all of which live on. The collector would
    walk them, and all else in memory, again and again, which takes longer than building them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            # There and back, all objects end up in the oldest generation, without a walk over the new ones.
            gc.freeze()
            gc.unfreeze()
        gc.enable()

"""Bars on processor time that hold on any machine: on a slower one they are higher, by as much as it is slower.

They are for what takes far too long when it goes wrong, such as time that grows with the square of an input: a bar is
many times what is usual. How slow the machine is, is measured only where a bar is missed, and right then, as other
processes can slow it down.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

HANGS_S = 3_600.0
"""Seconds after which whatever is waited for is taken to hang: no machine is so slow."""

USUAL_S = 0.01
"""Processor time of `_reference` in seconds on the machine on which the bars were chosen."""

SLACK = 10
"""How much longer than on that machine everything may take, relative to `_reference`: caches and such are shared."""


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < HANGS_S
        time.sleep(0.05)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Check that what is done in the block takes at most so much processor time, on a machine of usual speed.

    Raises
    ------
    AssertionError
        It takes more, `SLACK` and the speed of this machine allowed for.

    """
    began = time.process_time()
    yield
    check(time.process_time() - began, seconds)


def check(took_s: float, seconds: float, what: str = "it") -> None:
    """Check processor time that was measured; see `within`."""
    if took_s < seconds:
        return
    slowness = max(1.0, max(_reference() for _ in range(5)) / USUAL_S)
    most_s = SLACK * slowness * seconds
    assert took_s < most_s, f"{what} takes {took_s:.1f} s of processor time instead of at most {most_s:.1f} s"


def _reference() -> float:
    """Give the processor time that a fixed amount of work takes now."""
    began = time.process_time()
    total = 0
    for number in range(300_000):
        total += number & 7
    assert total == 1_050_000
    return time.process_time() - began

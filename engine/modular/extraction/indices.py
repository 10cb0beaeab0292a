"""Lists of indices as short texts, such as ``0-3,7,12-15``, for documents that people read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import ArchitectureError
from dovetail.io.files.strict_json import brief

_RUN: Final = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)


def indices_text(indices: Iterable[int]) -> str:
    """Write indices, runs of rising ones as their first and last."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = int(index)
        else:
            runs.append([int(index), int(index)])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def indices_of(text: object, size: int, what: str, count: int | None = None) -> NDArray[np.int64]:
    """Read indices from a text that may be hostile.

    Parameters
    ----------
    text
        What `indices_text` gave.
    size
        Number of things there are to index.
    what
        What the indices are of, for errors.
    count
        How many there must be; None for any number from one on.

    Raises
    ------
    ArchitectureError
        The text is not understood, names an index twice or one that is not below `size`, or has another number.

    """
    runs, found, most = [], 0, size if count is None else count
    for part in text.split(",") if type(text) is str else [""]:
        match = _RUN.fullmatch(part)
        low, high = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, -1)
        found += high + 1 - low
        if not low <= high < size or found > most:
            raise _wrong(what, text, size, count)
        runs.append((low, high + 1))
    indices = np.concatenate([np.arange(low, stop) for low, stop in runs])
    if len(np.unique(indices)) != len(indices) or found != (count or found):
        raise _wrong(what, text, size, count)
    return indices


def _wrong(what: str, text: object, size: int, count: int | None) -> ArchitectureError:
    return ArchitectureError(
        f"the {what} are {brief(text)}",
        f"{'' if count is None else f'{count} '}indices from 0 to {size - 1}, each once, such as 0-3,7",
        "extract the module again",
    )

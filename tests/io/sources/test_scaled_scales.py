"""Scales of groups times the scale of the tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dovetail.io.dtypes import DTYPES
from dovetail.io.sources.scaled_scales import ScaledScales
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.sources.test_rows import store
from tests.io.stored import random_bytes, touch


class TestScaledScales(SourceTests):
    """Float16 scales divided by a float32."""

    kinds = ("aligned", "chunks")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        values, whole = random_bytes(shape, "<u2"), np.full((1, 1), 0.37, np.float32)
        scales, factor = store(folder, "scales", kind, values), store(folder, "whole", "aligned", whole)
        source = ScaledScales(scales, DTYPES["F16"], factor, divides=True)
        with np.errstate(all="ignore"):
            expected = values.view(np.float16).astype(np.float32) / whole
        yield Stored(source, expected.tobytes(), lambda: touch(folder))

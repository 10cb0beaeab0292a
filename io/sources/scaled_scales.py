"""Scales that are themselves scaled: one float32 for a whole tensor beside a small scale for every group (NVFP4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dovetail.io.dtypes import DType
from dovetail.io.source import Decoding, Source, checked_source, out_of_range
from dovetail.io.sources.floats import ComputedFloats, decode_into, read_only_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@checked_source
@dataclass(frozen=True, slots=True)
class ScaledScales(ComputedFloats):
    """Scales of groups times, or divided by, the scale of the tensor: float32, each rounded once."""

    scales: Source
    """The scales of groups."""
    dtype: DType
    """Their dtype."""
    whole: Source
    """The scale of the tensor, one float32."""
    divides: bool
    """Whether it divides, and does not multiply."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.scales.length

    @property
    def scratch_bytes(self) -> int:
        """Most memory of a read beyond twice its result, which covers the stored scales."""
        return self.scales.scratch_bytes + self.whole.scratch_bytes + 8

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Compute scales ``[start, stop)`` and return their bytes, read-only."""
        if not 0 <= start <= stop <= self.length:
            raise out_of_range(start, stop, self.length)
        out = np.empty(stop - start, np.float32)
        decode_into(self.scales.read(start, stop), self.dtype, out)
        whole = self.whole.read(0, 1).view(np.float32)
        with np.errstate(all="ignore"):  # NaN and infinity are found later, as in any input
            (np.divide if self.divides else np.multiply)(out, whole, out=out)
        return read_only_bytes(out)

    def prefetch(self, start: int, stop: int) -> None:
        """Start reading a range's scales from disk, without waiting for them."""
        self.scales.prefetch(start, stop)
        self.whole.prefetch(0, 1)

    def populate(self, start: int, stop: int) -> bool:
        """Make a range's scales resident."""
        return self.scales.populate(start, stop) and self.whole.populate(0, 1)

    def release(self, start: int, stop: int) -> None:
        """Let go of a range's scales."""
        self.scales.release(start, stop)
        self.whole.release(0, 1)

    def decoding(self, start: int, stop: int) -> Decoding | None:
        """Say what reading a range's scales decodes."""
        return self.scales.decoding(start, stop)

    def stored_objects(self) -> None:
        """Give none: the scales are stored, those of groups and that of the tensor each for itself."""

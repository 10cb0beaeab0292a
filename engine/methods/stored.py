"""Merging what models keep as a store of task vectors has it, in place of the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.kernels.stored import TILE, stored_sum
from dovetail.engine.methods.decoding import elements, read_only
from dovetail.engine.methods.marking import Marking
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, State
from dovetail.io.errors import StoreError
from dovetail.io.files.checksum import array_checksum
from dovetail.io.zarr.packed import HEADER
from dovetail.io.zarr.vectors import mark_bytes


@dataclass(frozen=True, slots=True)
class StoredSum(OnePass):
    """Program of a tensor that is merged from a base model and from packed parts of task vectors."""

    of: Marking
    """Says how the parts are added up."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    length: int
    """Elements of the tensor."""
    chunk: int
    """Elements of a chunk of the store."""
    where: str
    """What people call the base model's tensor."""

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Widen a chunk to whole chunks of the store."""
        return start // self.chunk * self.chunk, min(self.length, -(-stop // self.chunk) * self.chunk)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of tiles of float32, of marks, and of the sums of an election."""
        return (12 + (25 if self.of.addition.voting else 0)) * TILE

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk.

        Raises
        ------
        StoreError
            The base model has other values than that of the store.

        """
        models = len(chunk.models)
        nonfinite, kept = np.zeros(models + 1, np.int64), np.zeros((models, models), np.int64)
        squares, overflowed = np.zeros(models + 1), 0
        rows = [self._rows(chunk, model) for model in range(models)]
        for index, parts in enumerate(zip(*rows, strict=True), chunk.window_start // self.chunk):
            low, high = index * self.chunk, min(self.length, (index + 1) * self.chunk)
            base = self._checked_base(chunk, low, high, parts)
            begin, end = max(low, chunk.start), min(high, chunk.stop)
            overflowed += stored_sum(
                (base, *(part.values for part in parts)),
                np.array((*self.codes, self.out_code), np.int64),
                tuple(part.marks for part in parts),
                (begin - low, end - low, begin - chunk.start),
                *self._factors([part.scale for part in parts]),
                out,
                (nonfinite, kept, squares),
            )
        return ChunkStatistics(
            kept=kept,
            delta_square=squares[:models],
            kept_square=squares[:models].copy(),
            merged_square=float(squares[models]),
            overflowed=overflowed,
            nonfinite=nonfinite,
        )

    def _factors(self, scales: Sequence[float]) -> tuple[NDArray[np.float32], tuple[Any, ...]]:
        """Give the factors and the options of the kernel."""
        how = self.of.addition
        ones = (1.0,) * len(how.weights)
        factors = (scales if how.rescales else ones, how.weights, ones if how.by_count else how.weights)
        return (
            np.array(factors, np.float32),
            (how.voting, how.normalize, np.float32(how.divisor), np.float32(how.factor)),
        )

    def _rows(self, chunk: Chunk, model: int) -> Iterator[_Part]:
        """Take a model's packed chunks apart."""
        packed, width, size = read_only(chunk.models[model]), mark_bytes(self.chunk), ITEMSIZES[self.codes[model + 1]]
        begin = 0
        while begin < packed.size:
            header = packed[begin : begin + HEADER.itemsize].view(HEADER)[0]
            middle, count = begin + width, int(header["count"])
            values = packed[middle : middle + count * size]
            marks = packed[begin + HEADER.itemsize : middle].view(np.uint64)
            yield _Part(marks, values, int(header["base"]), float(header["scale"]))
            begin = middle + -(-(count * size) // 8) * 8

    def _checked_base(self, chunk: Chunk, low: int, high: int, parts: Sequence[_Part]) -> Bytes:
        """Give the base model's elements ``low:high``, which must be those of the store."""
        assert chunk.base is not None
        base = elements(chunk, chunk.base, self.codes[0], low, high)
        digest = array_checksum(base.data)
        if any(part.base != digest for part in parts):
            raise StoreError(
                f"{self.where} has other values, between elements {low} and {high}, than when the store was made",
                "the base model of the store",
                "give that base model, or make a store of this one",
            )
        return base


@dataclass(frozen=True, slots=True)
class _Part:
    """One chunk of what a model keeps."""

    marks: NDArray[np.uint64]
    """Marks, 64 in a word."""
    values: Bytes
    """Stored bytes of the values at the marks."""
    base: int
    """Checksum of the base model's elements."""
    scale: float
    """What the part is multiplied by if it is rescaled."""

"""Two methods with several outputs, for tests alone; no recipe can name them unless a test enters them in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.decoding import plain_statistics
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, Problem
from tests.checkpoints import BF16, Tensors

Floats = NDArray[np.float32]


def _mean(chunk: Chunk) -> Floats:
    """Give the mean of bfloat16 sources."""
    return np.mean([raw.view(BF16).astype(np.float32) for raw in chunk.models], axis=0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Halves(EveryChunk):
    """The mean of all models over its largest magnitude: upper rows in bfloat16, lower rows in float32."""

    upper: int
    """Elements of the upper half."""

    @property
    def reduce_passes(self) -> int:
        return 1

    def partial_bytes(self, elements: int) -> int:
        return 8

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        return 24

    def window(self, start: int, stop: int) -> tuple[int, int]:
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        return 12 * elements

    def reduce(self, step: int, chunk: Chunk, state: Any) -> float:
        return float(np.abs(_mean(chunk)).max(initial=0))

    def begin(self, step: int, state: Any) -> float:
        return 0.0

    def fold(self, step: int, accumulator: float, partial: float) -> float:
        return max(accumulator, partial)

    def finish(self, step: int, accumulator: float, state: Any) -> float:
        return accumulator

    def output_range(self, output: int, start: int, stop: int) -> tuple[int, int]:
        if output == 0:
            return min(start, self.upper), min(stop, self.upper)
        return max(start, self.upper) - self.upper, max(stop, self.upper) - self.upper

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        raise AssertionError("there are two outputs")

    def apply_group(self, chunk: Chunk, state: float, outs: Sequence[Bytes]) -> ChunkStatistics:
        values = _mean(chunk) / np.float32(state)
        upper = outs[0].view(BF16)
        upper[:] = values[: upper.size].astype(BF16)
        outs[1].view(np.float32)[:] = values[upper.size :]
        return plain_statistics(len(chunk.models), 0, np.zeros(len(chunk.models), np.int64))


def halves(problem: Problem) -> tuple[Output, ...]:
    """Name the halves; the upper one has the middle row."""
    rows, *rest = problem.shape
    return (
        Output(f"{problem.name}.upper", (rows - rows // 2, *rest)),
        Output(f"{problem.name}.lower", (rows // 2, *rest), "F32"),
    )


def expected_halves(models: Sequence[Tensors]) -> dict[str, NDArray[Any]]:
    """Compute the halves the plain way, with whole tensors."""
    found: dict[str, NDArray[Any]] = {}
    for name in models[0]:
        whole = np.mean([model[name].astype(np.float32) for model in models], axis=0, dtype=np.float32)
        whole = whole / np.abs(whole).max()
        cut = len(whole) - len(whole) // 2
        found |= {f"{name}.upper": whole[:cut].astype(BF16), f"{name}.lower": whole[cut:]}
    return found


@dataclass(frozen=True, slots=True)
class Margins(EveryChunk):
    """The first model's largest value in each row and in each column: two small outputs, as of a low-rank pair."""

    length: int
    columns: int

    @property
    def reduce_passes(self) -> int:
        return 1

    def partial_bytes(self, elements: int) -> int:
        return 4 * self.columns

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        return 12 * self.columns

    def window(self, start: int, stop: int) -> tuple[int, int]:
        return start, min(self.length, -(-stop // self.columns) * self.columns)

    def scratch_bytes(self, elements: int) -> int:
        return 4 * elements

    def reduce(self, step: int, chunk: Chunk, state: Any) -> Floats:
        values = chunk.models[0].view(BF16).astype(np.float32)[: chunk.stop - chunk.start]
        found = np.full(self.columns, -np.inf, np.float32)
        np.maximum.at(found, np.arange(chunk.start, chunk.stop) % self.columns, values)
        return found

    def begin(self, step: int, state: Any) -> Floats:
        return np.full(self.columns, -np.inf, np.float32)

    def fold(self, step: int, accumulator: Floats, partial: Floats) -> Floats:
        return np.maximum(accumulator, partial, out=accumulator)

    def finish(self, step: int, accumulator: Floats, state: Any) -> Floats:
        return accumulator

    def output_range(self, output: int, start: int, stop: int) -> tuple[int, int]:
        if output == 0:  # the rows that begin in the chunk
            return -(-start // self.columns), -(-stop // self.columns)
        return (0, self.columns) if start == 0 else (self.columns, self.columns)

    def apply(self, chunk: Chunk, state: Any, out: Bytes) -> ChunkStatistics:
        raise AssertionError("there are two outputs")

    def apply_group(self, chunk: Chunk, state: Floats, outs: Sequence[Bytes]) -> ChunkStatistics:
        values = chunk.models[0].view(BF16).astype(np.float32)
        first, last = self.output_range(0, chunk.start, chunk.stop)
        rows = values[first * self.columns - chunk.window_start : last * self.columns - chunk.window_start]
        outs[0].view(np.float32)[:] = rows.reshape(-1, self.columns).max(axis=1) if last > first else ()
        if outs[1].size:
            outs[1].view(np.float32)[:] = state
        return plain_statistics(len(chunk.models), 0, np.zeros(len(chunk.models), np.int64))


def margins(problem: Problem) -> tuple[Output, ...]:
    """Name the margins."""
    columns = problem.shape[-1]
    return (
        Output(f"{problem.name}.rows", (problem.length // columns,), "F32"),
        Output(f"{problem.name}.columns", (columns,), "F32"),
    )


def expected_margins(models: Sequence[Tensors]) -> dict[str, NDArray[Any]]:
    """Compute the margins the plain way."""
    found: dict[str, NDArray[Any]] = {}
    for name, tensor in models[0].items():
        whole = tensor.astype(np.float32).reshape(-1, tensor.shape[-1])
        found |= {f"{name}.rows": whole.max(axis=1), f"{name}.columns": whole.max(axis=0)}
    return found


def _method(name: str, program: Callable[[Problem], Any], outputs: Callable[[Problem], tuple[Output, ...]]) -> Method:
    return Method(name, "For tests.", "", "optional", (), program, outputs=outputs, by_name=False)


def _make_halves(problem: Problem) -> Halves:
    return Halves(halves(problem)[0].length)


def _make_margins(problem: Problem) -> Margins:
    return Margins(problem.length, problem.shape[-1])


PARTED = {
    "halves": (_method("halves", _make_halves, halves), expected_halves),
    "margins": (_method("margins", _make_margins, margins), expected_margins),
}
"""Each method and what it must give, by name."""

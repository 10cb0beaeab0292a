"""Reinforced Agent Merging: unique changes are kept, shared ones averaged, https://arxiv.org/abs/2601.13572."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.pointwise import add_changed, count_changed, mark_changed
from dovetail.engine.methods.decoding import STRETCH, Floats, Marks, Values, stretches
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method, Parameter
from dovetail.engine.methods.parameters import merge_number, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, Problem


@dataclass(frozen=True, slots=True)
class Reinforced(EveryChunk):
    """Program of a tensor: W0, plus unique changes times a factor of their model, plus the mean of shared changes.

    A change is unique if no other model changes the element, else shared.
    """

    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    epsilon: float
    """Only changes with a magnitude above this count."""
    gain: float
    """How much the factor of a model grows with its ratio of shared to unique changes (r)."""
    most: float
    """Greatest ratio that counts; a larger one is replaced by it (alpha)."""
    counted: bool
    """Whether a reduce pass counts changes to find the factors; if not, every factor is 1."""

    @property
    def reduce_passes(self) -> int:
        """Number of reduce passes: one if changes are counted, else none."""
        return int(self.counted)

    def partial_bytes(self, elements: int) -> int:
        """Bytes of two counts for each model."""
        return 16 * len(self.codes)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Two counts a model, and its factor."""
        return 64 * len(self.codes)

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """Need only the chunk itself."""
        return start, stop

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of the sources of a stretch, and of counts, masks and sums."""
        return min(elements, STRETCH) * (5 * len(self.codes) + 2 + 8)

    def reduce(self, step: int, chunk: Chunk, state: Any) -> NDArray[np.int64]:
        """Count the shared and the unique changes of each model in a chunk."""
        size = min(STRETCH, chunk.stop - chunk.start)
        values, counts = Values(chunk, self.codes, size), np.empty(size, np.uint16)
        found = np.zeros((len(self.codes) - 1, 2), np.int64)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            _, taus = values.load_task_vectors(start, stop, (start, stop))
            count_changed(taus, np.float32(self.epsilon), counts[: stop - start], found)
        return found

    def begin(self, step: int, state: Any) -> NDArray[np.int64]:
        """Begin counting at zero."""
        return np.zeros((len(self.codes) - 1, 2), np.int64)

    def fold(self, step: int, accumulator: NDArray[np.int64], partial: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add a chunk's counts."""
        accumulator += partial
        return accumulator

    def finish(self, step: int, accumulator: NDArray[np.int64], state: Any) -> tuple[float, ...]:
        """Find the factors: 1 + r clip(shared / max(unique, epsilon), 0, alpha)."""
        shared, unique = accumulator.T
        with np.errstate(all="ignore"):
            ratio = np.clip(shared / np.maximum(unique, self.epsilon), 0.0, self.most)
        return tuple(float(value) for value in 1.0 + self.gain * ratio)

    def apply(self, chunk: Chunk, state: tuple[float, ...] | None, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        size, models = min(STRETCH, chunk.stop - chunk.start), len(self.codes) - 1
        values, mask = Values(chunk, self.codes, size), np.empty(size, np.uint8)
        merged = _Sum(values.nonfinite, state or (1.0,) * models, size)
        epsilon, unneeded = np.float32(self.epsilon), np.zeros((models, 2), np.int64)
        for start, stop in stretches(chunk.start, chunk.stop, STRETCH):
            base, taus = values.load_task_vectors(start, stop, (start, stop))
            merged.begin(stop - start)
            count_changed(taus, epsilon, merged.counts[: stop - start], unneeded)
            for model, tau in enumerate(taus):
                mark_changed(tau, epsilon, mask[: stop - start])
                merged.add(model, tau, mask[: stop - start])
            merged.finish(base, out, self.out_code, start - chunk.start)
        return merged.statistics


class _Sum(StretchSum):
    """The sum of unique changes times their factors, and of shared changes divided by the number of sharers."""

    def __init__(self, nonfinite: NDArray[np.int64], factors: Sequence[float], size: int) -> None:
        super().__init__(nonfinite, len(factors), size)
        self._factors = np.array(factors, np.float32)
        self.counts = np.empty(size, np.uint16)

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        size = self._size
        add_changed(tau, mask, self._factors[model], self.counts[:size], self._delta[:size])


def make_ram(problem: Problem) -> Reinforced:
    """Make the program of one tensor for `ram`."""
    return Reinforced(
        task_vector_codes(problem), problem.out_code, merge_number(problem, "epsilon", 0.0), 0.0, 0.0, counted=False
    )


def make_ramplus(problem: Problem) -> Reinforced:
    """Make the program of one tensor for `ramplus_tl`."""
    return Reinforced(
        task_vector_codes(problem),
        problem.out_code,
        merge_number(problem, "epsilon", 0.0),
        merge_number(problem, "r"),
        merge_number(problem, "alpha", 0.0),
        counted=True,
    )


_EPSILON = Parameter("epsilon", "float", 1e-5, "changes up to this magnitude count as none")

RAM = Method(
    name="ram",
    summary="Keep the changes that only one model makes, and average those that several make: "
    "use it for agents trained by reinforcement, whose changes are sparse.",
    paper="https://arxiv.org/abs/2601.13572",
    base="origin",
    parameters=(_EPSILON,),
    program=make_ram,
    by_name=False,
)
"""The row of the table of methods."""

RAMPLUS_TL = Method(
    name="ramplus_tl",
    summary="As ram, but strengthen a model's unique changes by how much of the rest it shares, tensor by tensor: "
    "use it where averaging shared changes weakens the merged model.",
    paper="https://arxiv.org/abs/2601.13572",
    base="origin",
    parameters=(
        Parameter("r", "float", 0.1, "how much unique changes gain for each shared one"),
        Parameter("alpha", "float", 0.2, "greatest ratio of shared to unique changes that counts"),
        _EPSILON,
    ),
    program=make_ramplus,
    by_name=False,
)
"""The row of the table of methods."""

"""Who overrides whom: the changes that a model wants, and that a merge does not take from it because of other models.

In an election of signs a change loses where its sign is not the elected one, to the models that have that sign. With
exclusion, as in CABS, a model wants what it would keep alone, and loses the places that others keep. Both are found
by marking what models keep a second time, apart from the merge: its kernels know nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.kernels.general import IGNORE
from dovetail.engine.methods.cabs import BalancedCabs
from dovetail.engine.methods.cabs_kernels import KernelCabs
from dovetail.engine.methods.cabs_magnitude import MagnitudeCabs
from dovetail.engine.methods.decoding import STRETCH, Floats, Marks
from dovetail.engine.methods.marking import Marking
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.program import Accumulator, Bytes, Chunk, ChunkStatistics, Problem, State, reduce_whole
from dovetail.engine.methods.registry import find_any

_LONGEST = 4 * STRETCH
"""Most elements of a stretch: those of blocks of the greatest length."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What models want and do not get, in a chunk or in a tensor."""

    wanted: NDArray[np.int64]
    """``wanted[i]``: changes that model i wants."""
    wanted_square: NDArray[np.float64]
    """The sums of their squares."""
    lost: NDArray[np.int64]
    """``lost[i, j]``: of these, those that it loses to model j; on the diagonal, that it loses at all."""
    lost_square: NDArray[np.float64]
    """The sums of their squares."""
    nonfinite: NDArray[np.int64]
    """NaN and infinite elements of every source."""
    open: bool = False
    """Never: there is no further pass."""

    def plus(self, other: Losses) -> Losses:
        """Add up."""
        return Losses(
            self.wanted + other.wanted,
            self.wanted_square + other.wanted_square,
            self.lost + other.lost,
            self.lost_square + other.lost_square,
            self.nonfinite + other.nonfinite,
        )


@dataclass(frozen=True, slots=True)
class _Before:
    """What a pass before the last has found: for the program that marks."""

    found: Any
    """Its partial result or its state."""
    nonfinite: NDArray[np.int64]
    """Nothing yet: the last pass counts."""
    open: bool = True
    """Another pass follows."""


def no_losses(models: int) -> Losses:
    """Begin with nothing."""
    counts = np.zeros(models, np.int64), np.zeros(models), np.zeros((models, models), np.int64)
    return Losses(*counts, np.zeros((models, models)), np.zeros(models + 1, np.int64))


def make_contest(method: Method, problem: Problem) -> Contest | None:
    """Make the program that finds who overrides whom in a tensor; None if a method overrides nothing, or is unknown."""
    if method.masks is None or len(problem.model_codes) < 2:
        return None
    of = method.masks.program(problem).frugal()
    if isinstance(of, MagnitudeCabs | KernelCabs) and of.mode != IGNORE:
        return None  # what a model would keep alone takes passes of its own to find
    alone = replace(of, mode=IGNORE) if isinstance(of, BalancedCabs) and of.mode != IGNORE else None
    return Contest(of, alone, len(problem.model_codes)) if alone is not None or of.addition.voting else None


@dataclass(frozen=True, slots=True)
class Contest:
    """Program of one tensor: the passes of the program that marks, and one in which marks are compared."""

    of: Marking
    """Says what each model keeps, as in the merge."""
    alone: Marking | None
    """Says what each model would keep alone, where that is something else. It has no passes."""
    models: int
    """Number of models."""

    @property
    def reduce_passes(self) -> int:
        """Those of marking, and one."""
        return self.of.reduce_passes + 1

    def partial_bytes(self, elements: int) -> int:
        """Those of marking, or the sums of a chunk."""
        return max(self.of.partial_bytes(elements), self._small_bytes)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Those of marking, whose state is still there when sums are added up."""
        return self.of.accumulator_bytes(elements, chunks) + 3 * self._small_bytes

    @property
    def _small_bytes(self) -> int:
        return 2**11 + 16 * (self.models + 2) ** 2

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """What marking needs, in the merge and alone."""
        windows = [each.window(start, stop) for each in (self.of, self.alone) if each is not None]
        return min(low for low, _ in windows), max(high for _, high in windows)

    def scratch_bytes(self, elements: int) -> int:
        """Working memory of marking, of tiles of contributions and marks, and of the marks of a chunk."""
        marking_bytes = max(each.marking_bytes(elements) for each in (self.of, self.alone) if each is not None)
        tiles = (6 * self.models + 48) * min(elements, _LONGEST)
        return max(self.of.scratch_bytes(elements), marking_bytes + tiles + self.models * (elements // 8 + STRETCH))

    def reads(self, step: int, state: State) -> Sequence[tuple[int, int]] | None:
        """What marking reads, which is frugal; in the last pass, everything."""
        return self.of.reads(step, _inner(state)) if step < self.of.reduce_passes else None

    @property
    def readings(self) -> tuple[int, int]:
        """What marking reads, and everything once."""
        passes, sampled = self.of.readings
        return passes + 1, sampled

    def frugal(self) -> Contest:
        """Give the program itself."""
        return self

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Reduce as marking needs it; in the last pass, compare."""
        nothing = np.zeros(self.models + 1, np.int64)
        if step < self.of.reduce_passes:
            return _Before(self.of.reduce(step, chunk, _inner(state)), nothing)
        if step > self.of.reduce_passes:
            raise AssertionError("there is no such pass")
        wanted = None
        if self.alone is not None:
            collected: list[_Collected] = []

            def collect(nonfinite: NDArray[np.int64], size: int) -> StretchSum:
                collected.append(_Collected(nonfinite, self.models, size))
                return collected[-1]

            self.alone.mark(chunk, None, collect, np.empty(0, np.uint8))
            wanted = collected[0].marks
        compared: list[_Compared] = []

        def compare(nonfinite: NDArray[np.int64], size: int) -> StretchSum:
            compared.append(_Compared(nonfinite, size, self._factors(state), self.of.addition.voting, wanted))
            return compared[-1]

        self.of.mark(chunk, _inner(state), compare, np.empty(0, np.uint8))
        return compared[0].losses

    def _factors(self, state: State) -> NDArray[np.float32]:
        how = self.of.addition
        scales = self.of.scales(_inner(state)) if how.rescales else (1.0,) * self.models
        return np.array((scales, how.weights), np.float32)

    def begin(self, step: int, state: State) -> Accumulator:
        """Begin as marking does, or with nothing."""
        return self.of.begin(step, _inner(state)) if step < self.of.reduce_passes else no_losses(self.models)

    def fold(self, step: int, accumulator: Accumulator, partial: Any) -> Accumulator:
        """Fold as marking does, or add up."""
        if step < self.of.reduce_passes:
            return self.of.fold(step, accumulator, partial.found)
        return accumulator.plus(partial)

    def finish(self, step: int, accumulator: Accumulator, state: State) -> State:
        """Finish as marking does, or give the losses."""
        if step < self.of.reduce_passes:
            return _Before(self.of.finish(step, accumulator, _inner(state)), np.zeros(self.models + 1, np.int64))
        return accumulator

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Never called: nothing is written."""
        raise AssertionError("a contest has no output")


def _inner(state: State) -> State:
    return None if state is None else state.found


class _Stretches(StretchSum):
    """Receives what models keep, stretch by stretch, and adds nothing up."""

    def __init__(self, nonfinite: NDArray[np.int64], models: int) -> None:
        self.nonfinite, self.models, self._size = nonfinite, models, 0

    def begin(self, size: int) -> None:
        """Start a stretch."""
        self._size = size


class _Collected(_Stretches):
    """Keeps the marks of a whole chunk, eight in a byte."""

    def __init__(self, nonfinite: NDArray[np.int64], models: int, size: int) -> None:
        super().__init__(nonfinite, models)
        self.marks: list[list[NDArray[np.uint8]]] = []

    def begin(self, size: int) -> None:
        """Start a stretch."""
        super().begin(size)
        self.marks.append([])

    def add(self, model: int, tau: Floats, mask: Marks) -> None:
        """Keep a model's marks."""
        self.marks[-1].append(np.packbits(mask))

    def finish(self, base: Floats, out: Bytes, code: int, start: int) -> None:
        """Nothing is stored."""


class _Compared(_Stretches):
    """Compares what models want with what counts."""

    def __init__(
        self,
        nonfinite: NDArray[np.int64],
        size: int,
        factors: NDArray[np.float32],
        voting: bool,
        wanted: Sequence[Sequence[NDArray[np.uint8]]] | None,
    ) -> None:
        models = factors.shape[1]
        super().__init__(nonfinite, models)
        self._factors, self._voting, self._all_wanted = factors, voting, wanted
        self.losses = replace(no_losses(models), nonfinite=nonfinite)
        self._stretch = -1
        self._taus = np.empty((models, size), np.float32)
        self._masks = np.empty((models, size), np.bool_)

    def begin(self, size: int) -> None:
        """Start a stretch."""
        super().begin(size)
        self._stretch += 1

    def add(self, model: int, tau: Floats, mask: Marks) -> None:
        """Take what a model keeps."""
        self._taus[model, : self._size], self._masks[model, : self._size] = tau, mask != 0

    def finish(self, base: Floats, out: Bytes, code: int, start: int) -> None:
        """Count what every model loses, and to whom."""
        taus, masks, size = self._taus[:, : self._size], self._masks[:, : self._size], self._size
        wins = self._elected(taus, masks) if self._voting else masks
        found = self.losses
        for model in range(self.models):
            wants = masks[model] if self._all_wanted is None else self._bits(model, size)
            wants = wants & (taus[model] != 0) & (self._factors[1, model] != 0)
            squares = np.where(wants, taus[model], np.float32(0)).astype(np.float64)
            squares *= squares
            found.wanted[model] += np.count_nonzero(wants)
            found.wanted_square[model] += squares.sum()
            loses = wants & ~wins[model]
            for other in range(self.models):
                here = loses if other == model else loses & wins[other]
                found.lost[model, other] += np.count_nonzero(here)
                found.lost_square[model, other] += squares[here].sum()

    def _bits(self, model: int, size: int) -> NDArray[np.bool_]:
        assert self._all_wanted is not None
        return np.unpackbits(self._all_wanted[self._stretch][model], count=size).view(np.bool_)

    def _elected(self, taus: Floats, masks: NDArray[Any]) -> NDArray[np.bool_]:
        """Elect signs as the merge does, operation by operation, and tell which changes have the elected one."""
        total, positive = np.zeros(self._size, np.float32), np.empty((self.models, self._size), np.int8)
        with np.errstate(all="ignore"):
            for model in range(self.models):
                scale, weight = self._factors[:, model]
                votes = np.where(masks[model], weight * (scale * taus[model]), np.float32(0))
                total += votes
                positive[model] = np.sign(np.nan_to_num(votes))
        elected = np.where(total >= 0, 1, -1).astype(np.int8)
        wins: NDArray[np.bool_] = (positive == elected) & ~np.isnan(total)  # a total that is NaN elects no sign
        return wins


def try_contest(name: str, problem: Problem) -> None:
    """Call the kernels that the program of a problem needs, on made-up values.

    Parameters
    ----------
    name
        The method.
    problem
        A small problem.

    """
    program = make_contest(find_any(name), problem)
    if program is None or problem.base_code is None:
        return
    low, high = program.window(0, problem.length)
    base, *models = (
        (np.arange((high - low) * ITEMSIZES[code]) * 7 % 59).astype(np.uint8)  # finite numbers in any dtype
        for code in (problem.base_code, *problem.model_codes)
    )
    for array in (base, *models):
        array.flags.writeable = False
    reduce_whole(program, Chunk(0, 0, problem.length, low, base, tuple(models)))

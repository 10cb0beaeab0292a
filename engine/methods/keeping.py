"""What models keep of a tensor, as stores of task vectors have it: marks, and the models' own values at the marks.

A method that prunes task vectors before it weighs them says so in its row of the table of methods (`Method.masks`). Its
programs are `marking.Marking`: they can say what each model keeps. `Kept` is the program that writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.kernels.packing import pack
from dovetail.engine.kernels.statistics import count_pairs
from dovetail.engine.methods.decoding import Floats, Marks, elements
from dovetail.engine.methods.marking import Marking
from dovetail.engine.methods.masked import StretchSum
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.program import Accumulator, Bytes, Chunk, ChunkStatistics, Problem, State
from dovetail.io.dtypes import DTYPES
from dovetail.io.files.checksum import array_checksum
from dovetail.io.zarr.packed import HEADER
from dovetail.io.zarr.vectors import array_names, mark_bytes

FREE = frozenset({"weight", "lambda", "normalize", "rescale", "consensus"})
"""Parameters that decide how what models keep is added up, and not what they keep."""


def marking(method: Method, problem: Problem) -> Marking:
    """Make the program that says what models keep of a tensor, with rescaling factors whether or not they are used."""
    assert method.masks is not None
    parameters = problem.parameters
    if "rescale" in parameters:
        parameters = {**parameters, "rescale": True}
    return method.masks.program(replace(problem, parameters=parameters))


def deciding(method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of parameters those that do not decide what models keep."""
    inert = {parameter.name for parameter in method.parameters if parameter.inert}
    return {key: value for key, value in values.items() if key not in FREE | inert | {"int8_mask", "pruning_order"}}


@dataclass(frozen=True, slots=True)
class Kept:
    """Program that writes what each model keeps of a tensor: two outputs for each model, marks and values."""

    of: Marking
    """Says what each model keeps."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    length: int
    """Elements of the tensor."""
    chunk: int
    """Elements of a chunk."""

    @property
    def reduce_passes(self) -> int:
        """Those that marking needs."""
        return self.of.reduce_passes

    def partial_bytes(self, elements: int) -> int:
        """Those of marking."""
        return self.of.partial_bytes(elements)

    def accumulator_bytes(self, elements: int, chunks: int) -> int:
        """Those of marking."""
        return self.of.accumulator_bytes(elements, chunks)

    def window(self, start: int, stop: int) -> tuple[int, int]:
        """What marking needs."""
        return self.of.window(start, stop)

    def scratch_bytes(self, elements: int) -> int:
        """What marking takes, and at least what a reduce pass does."""
        return max(self.of.scratch_bytes(elements), self.of.marking_bytes(elements))

    def reads(self, step: int, state: State) -> Sequence[tuple[int, int]] | None:
        """What marking reads."""
        return self.of.reads(step, state)

    @property
    def readings(self) -> tuple[int, int]:
        """What marking reads."""
        return self.of.readings

    def frugal(self) -> Kept:
        """Mark by a frugal program."""
        return replace(self, of=self.of.frugal())

    def reduce(self, step: int, chunk: Chunk, state: State) -> Any:
        """Reduce as marking needs it."""
        return self.of.reduce(step, chunk, state)

    def begin(self, step: int, state: State) -> Accumulator:
        """Begin as marking does."""
        return self.of.begin(step, state)

    def fold(self, step: int, accumulator: Accumulator, partial: Any) -> Accumulator:
        """Fold as marking does."""
        return self.of.fold(step, accumulator, partial)

    def finish(self, step: int, accumulator: Accumulator, state: State) -> State:
        """Finish as marking does."""
        return self.of.finish(step, accumulator, state)

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Never called: there are several outputs."""
        raise AssertionError("a store has two outputs for each model")

    @property
    def widths(self) -> tuple[int, ...]:
        """Elements of a row of each output."""
        found: list[int] = []
        for model in range(len(self.codes) - 1):
            found += [mark_bytes(self.chunk), most_values(self.of, model, self.chunk)]
        return tuple(found)

    def output_range(self, output: int, start: int, stop: int) -> tuple[int, int]:
        """Give the row of an output that a chunk of the inputs gives."""
        width = self.widths[output]
        return start // self.chunk * width, -(-stop // self.chunk) * width

    def apply_group(self, chunk: Chunk, state: State, outs: Sequence[Bytes]) -> ChunkStatistics:
        """Write the rows of a chunk."""
        assert chunk.base is not None
        for out in outs:
            out[:] = 0

        def begin(nonfinite: NDArray[np.int64], size: int) -> StretchSum:
            return _Packing(nonfinite, size, chunk, self.codes, outs)

        packed = self.of.mark(chunk, state, begin, np.empty(0, np.uint8))
        assert isinstance(packed, _Packing)
        digest = array_checksum(elements(chunk, chunk.base, self.codes[0], chunk.start, chunk.stop).data)
        for count, scale, row in zip(packed.counts, self.of.scales(state), outs[::2], strict=True):
            header = row[: HEADER.itemsize].view(HEADER)[0]
            header["count"], header["base"], header["scale"] = count, digest, scale
        return packed.statistics


def most_values(program: Marking, model: int, chunk: int) -> int:
    """Give the values in a row of a model's: as many as a chunk can have, rounded up to whole words, one at least."""
    return 8 * max(1, -(-program.most_kept(model, chunk) // 8))


class _Packing(StretchSum):
    """Packs what each model keeps, in place of adding it up."""

    def __init__(
        self, nonfinite: NDArray[np.int64], size: int, chunk: Chunk, codes: Sequence[int], outs: Sequence[Bytes]
    ) -> None:
        super().__init__(nonfinite, len(chunk.models), size)
        self.counts = [0] * len(chunk.models)
        self._chunk, self._codes, self._place = chunk, codes, 0
        self._bits, self._values = [row[HEADER.itemsize :] for row in outs[::2]], outs[1::2]

    def _add(self, model: int, tau: Floats, mask: Marks) -> None:
        first = self._chunk.start + self._place
        stored = elements(self._chunk, self._chunk.models[model], self._codes[model + 1], first, first + self._size)
        self.counts[model] = pack(mask, stored, self._place, self._bits[model], self._values[model], self.counts[model])

    def finish(self, base: Floats, out: Bytes, code: int, start: int) -> None:
        """Go on to the next stretch."""
        count_pairs(self._masks, self._size, self.statistics.kept)
        self._place += self._size


def kept_program(method: Method, problem: Problem, chunk: int) -> Kept:
    """Make the program that writes what models keep of a tensor, in chunks of so many elements."""
    assert problem.base_code is not None
    return Kept(marking(method, problem), (problem.base_code, *problem.model_codes), problem.length, chunk)


def kept_outputs(problem: Problem, program: Kept) -> tuple[Output, ...]:
    """Describe the arrays that a store has for a tensor."""
    rows, found = max(1, -(-program.length // program.chunk)), list[Output]()
    names = {dtype.kernel_code: name for name, dtype in DTYPES.items() if dtype.mergeable}
    for model, (marks, values) in enumerate(_pairs(program.widths)):
        mark_name, value_name = array_names(problem.name, model)
        found.append(Output(mark_name, (rows, marks), "U8"))
        found.append(Output(value_name, (rows, values), names[problem.model_codes[model]]))
    return tuple(found)


def _pairs(widths: Sequence[int]) -> Iterable[tuple[int, int]]:
    return zip(widths[::2], widths[1::2], strict=True)

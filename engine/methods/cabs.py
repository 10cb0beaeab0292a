"""CABS: each model keeps its strongest changes, and no two models keep a change of the same element.

Conflict-Aware and Balanced Sparsification, https://arxiv.org/abs/2503.01874, algorithm 1. Masks are made model by
model, in the order in which the engine lists the models; the engine applies ``pruning_order`` before it asks for a
program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import lcm

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels import exclusive
from dovetail.engine.kernels.exclusive import tile_elements
from dovetail.engine.kernels.general import FORBID, IGNORE, MAX_BLOCK, MINIMIZE
from dovetail.engine.methods.cabs_choosing import choose_any, choose_free
from dovetail.engine.methods.cabs_kernels import KernelCabs
from dovetail.engine.methods.cabs_magnitude import MagnitudeCabs
from dovetail.engine.methods.cabs_sum import AddsMasked
from dovetail.engine.methods.decoding import STRETCH, ElementRange, TaskVectors, elements, stretches
from dovetail.engine.methods.marking import Marking
from dovetail.engine.methods.masked import BeginSum, StretchSum
from dovetail.engine.methods.method import REQUIRED, Masks, Method, Parameter
from dovetail.engine.methods.parameters import describe_model, model_weights, task_vector_codes
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, State


@dataclass(frozen=True, slots=True)
class BalancedCabs(AddsMasked, OnePass):
    """Program of CABS with n:m blocks."""

    length: int
    """Elements of the tensor."""
    codes: tuple[int, ...]
    """Dtype codes of the base model's tensor and of the models'."""
    out_code: int
    """Dtype code of the output."""
    n: tuple[int, ...]
    """For each model, how many elements of a block it keeps."""
    m: tuple[int, ...]
    """For each model, the elements of a block."""
    weights: tuple[float, ...]
    """The models' weights."""
    mode: int
    """What claims of earlier models mean: IGNORE, FORBID or MINIMIZE."""
    ties: bool
    """Whether elements kept by several models are merged by sign election instead of a sum."""

    @property
    def _tile(self) -> int | None:
        """Elements of a tile of the fused kernel; None where the options or the blocks need the general kernels.

        A single model prunes alone whatever the options, so that the fused kernel serves it.
        """
        return tile_elements(self.m) if self.mode == FORBID or len(self.m) == 1 else None

    @property
    def _step(self) -> int:
        """Distance between the cuts of a chunk into stretches; they lie between blocks of every model if possible."""
        common = lcm(*self.m)
        return STRETCH // common * common if common <= STRETCH else max(STRETCH, 4 * max(self.m))

    def _ranges(self, start: int, stop: int) -> list[ElementRange]:
        """Find the elements on which the mask of each model must be known in order to merge ``start:stop``.

        The blocks of a model must be whole, and the masks of the models before it must be known on all of them.
        """
        ranges: list[ElementRange] = []
        low, high = start, stop
        for m in reversed(self.m):
            if self.mode == IGNORE:
                low, high = start, stop
            low, high = low // m * m, min(self.length, -(-high // m) * m)
            ranges.append((low, high))
        return ranges[::-1]

    def window(self, start: int, stop: int) -> ElementRange:
        """Widen a chunk to whole blocks of every model."""
        if self._tile:
            common = lcm(*self.m)
            return start // common * common, min(self.length, -(-stop // common) * common)
        lows, highs = zip(*self._ranges(start, stop), strict=True)
        return min(lows), max(highs)

    def scratch_bytes(self, elements: int) -> int:
        """Bytes of working memory for a window of `elements`."""
        return exclusive.scratch_bytes(self._tile, self.m) if self._tile else self.marking_bytes(elements)

    def marking_bytes(self, elements: int) -> int:
        """Bytes of working memory of `mark` for a window of `elements`."""
        size = min(elements, self._step + 2 * max(sum(self.m), lcm(*self.m) if self._tile else 0))
        summing = self.summing_bytes(min(elements, self._step))
        choosing = exclusive.scratch_bytes(size, self.m) if self._tile else 0
        return TaskVectors.scratch_bytes(size) + summing + 3 * size + 8 * max(self.m) + choosing

    def most_kept(self, model: int, elements: int) -> int:
        """Give the most of so many elements in a row that a model can keep: n of each block that they meet."""
        return min(elements, self.n[model] * (elements // self.m[model] + 2))

    def apply(self, chunk: Chunk, state: State, out: Bytes) -> ChunkStatistics:
        """Merge a chunk."""
        if self._tile:
            return self._apply_fused(chunk, out, self._tile)
        return self.mark(chunk, state, self.begin_sum, out).statistics

    def _apply_fused(self, chunk: Chunk, out: Bytes, tile: int) -> ChunkStatistics:
        """Merge a chunk in one call."""
        assert chunk.base is not None
        count, (low, high) = len(self.m), self.window(chunk.start, chunk.stop)
        common = lcm(*self.m)
        tile = min(tile, max(1, -(-(high - low) // common)) * common)
        sources = zip((chunk.base, *chunk.models), self.codes, strict=True)
        kept, squares = np.zeros(count, np.int64), np.zeros((2, count))
        nonfinite = np.zeros(count + 1, np.int64)
        overflowed = exclusive.exclusive_chunk(
            tuple(elements(chunk, raw, code, low, high) for raw, code in sources),
            np.array((*self.codes, self.out_code), np.int64),
            np.array((self.n, self.m), np.int64),
            np.array(self.weights, np.float32),
            np.array((low, high, chunk.start, chunk.stop), np.int64),
            exclusive.thread_scratch(tile, self.m),
            out,
            (nonfinite, kept, squares),
        )
        return ChunkStatistics(
            kept=np.diag(kept),
            delta_square=squares[0],
            kept_square=squares[1],
            # No element is kept by two models, so the square of the change is the sum of the models' parts.
            merged_square=float(np.square(np.array(self.weights, np.float32), dtype=np.float64) @ squares[1]),
            overflowed=overflowed,
            nonfinite=nonfinite,
        )

    def mark(self, chunk: Chunk, state: State, begin: BeginSum, out: Bytes) -> StretchSum:
        """Go through a chunk stretch by stretch, and hand a sum what each model keeps; see `marking.Marking`."""
        cuts = list(stretches(chunk.start, chunk.stop, self._step))
        windows = [self.window(*cut) for cut in cuts]
        size = max((high - low for low, high in windows), default=0)
        vectors = TaskVectors(chunk, self.codes, size)
        merged = begin(vectors.nonfinite, min(size, self._step))
        blocks = tuple(zip(self.n, self.m, strict=True))
        choose = choose_free(blocks, size) if self._tile else choose_any(blocks, size, self.mode)
        for (start, stop), window in zip(cuts, windows, strict=True):
            vectors.begin(*window, (start, stop))
            merged.begin(stop - start)
            for model, (low, tau, marks) in enumerate(choose(vectors, window, self._ranges(start, stop))):
                merged.add(model, tau[start - low : stop - low], marks[start - low : stop - low])
            merged.finish(vectors.base(start, stop), out, self.out_code, start - chunk.start)
        return merged


def _check_block(problem: Problem, model: int, longest: int | None) -> tuple[int, int]:
    """Read n and m of a model.

    Raises
    ------
    RecipeError
        They are not possible numbers.

    """
    n, m = (int(problem.model_parameters[model][key]) for key in ("n", "m"))
    where = f"for {describe_model(problem, model)}"
    if m < 1 or (longest is not None and m > longest):
        limit = "a whole number from 1" + (f" to {longest}" if longest else "")
        raise RecipeError(f"m is {m} {where}", limit, "correct 'm' in the recipe")
    if not 0 <= n <= m:
        raise RecipeError(f"n is {n} {where}", f"0 <= n <= m, and m is {m}", "correct 'n' or 'm' in the recipe")
    return n, m


def make_program(problem: Problem) -> Marking:
    """Choose the program for a tensor.

    Raises
    ------
    RecipeError
        A model's n:m or weight cannot be used.

    """
    options = problem.parameters
    balanced = bool(options["balanced"])
    blocks = [
        _check_block(problem, model, MAX_BLOCK if balanced else None) for model in range(len(problem.model_codes))
    ]
    mode = {"forbid": FORBID, "minimize": MINIMIZE}[options["overlap"]] if options["conflict_aware"] else IGNORE
    program: Callable[..., Marking] = BalancedCabs if balanced else MagnitudeCabs
    if options.get("granularity") == "kernel":
        if not balanced:
            raise RecipeError(
                f"'granularity' is kernel and 'balanced' is false for tensor {problem.name!r}",
                "n of every m kernels",
                "leave out one of the two",
            )
        if len(problem.shape) > 1 and problem.length:
            program = partial(KernelCabs, row=problem.length // problem.shape[0])
    return program(
        length=problem.length,
        codes=task_vector_codes(problem),
        out_code=problem.out_code,
        n=tuple(n for n, _ in blocks),
        m=tuple(m for _, m in blocks),
        weights=model_weights(problem),
        mode=mode,
        ties=options["consensus"] == "ties",
    )


_CROWDED = 0.5
"""A part of the places that models before the last take at most, unless that is said: more leaves the last model less
than half of the energy of its change, as far as changes have nothing to do with each other."""


def caution(problem: Problem) -> str:
    """Warn of a last model that is left with little: what earlier ones keep is closed to it."""
    options, models = problem.parameters, problem.model_parameters
    if not options["conflict_aware"] or options["overlap"] != "forbid" or len(models) < 2:
        return ""
    taken = sum(int(each["n"]) / int(each["m"]) for each in models[:-1])
    if taken <= _CROWDED:
        return ""
    last = problem.model_names[-1] if problem.model_names else "the last model"
    taken, left = min(taken, 1.0), max(1.0 - taken, 0.0)
    return (
        f"The models before {last} take {taken:.0%} of the places, and leave it about as little of the energy of its "
        f"change as of the places: {left:.0%}. A smaller n for each m, or overlap: minimize, leaves more; "
        "pruning_order says which model comes last."
    )


CABS = Method(
    name="cabs",
    summary="Keep each model's strongest changes, n of every m, with no two models in one place: "
    "use it when fine-tunes for different tasks get in each other's way.",
    paper="https://arxiv.org/abs/2503.01874",
    base="origin",
    parameters=(
        Parameter("weight", "float", REQUIRED, "factor (lambda) of the model's kept changes", "model"),
        Parameter(
            "n",
            "int",
            REQUIRED,
            "changes kept in every block of m; n/m is the density",
            "model",
            synonyms=("n_val", "default_n_val"),
        ),
        Parameter(
            "m",
            "int",
            REQUIRED,
            f"elements of a block, at most {MAX_BLOCK}",
            "model",
            synonyms=("m_val", "default_m_val"),
        ),
        Parameter("pruning_order", "models", None, "models from first to last choice; default: as listed"),
        Parameter(
            "overlap",
            "choice",
            "forbid",
            "forbid: never keep what an earlier model keeps; minimize: only where nothing else is left",
            choices=("forbid", "minimize"),
        ),
        Parameter(
            "consensus",
            "choice",
            "sum",
            "where several models keep a change: sum them, or (ties) elect a sign and take the mean",
            choices=("sum", "ties"),
        ),
        Parameter(
            "granularity",
            "choice",
            "weight",
            "weight: keep single changes; kernel: keep all changes of a convolution's kernel or of a linear layer's "
            "neuron, or none (n of every m rows of a tensor; tensors of one dimension by weight)",
            choices=("weight", "kernel"),
        ),
        Parameter("conflict_aware", "bool", True, "false: every model prunes alone, as if it were the only one"),
        Parameter("balanced", "bool", True, "false: prune by magnitude over the whole tensor at density n/m"),
    ),
    program=make_program,
    by_name=False,
    masks=Masks("cabs", make_program),
    caution=caution,
)
"""The row of the table of methods."""

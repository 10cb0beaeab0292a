"""Merging the marked parts of task vectors in one sweep over all models: changes, their sum or election, and squares.

What is computed of an element stays in registers and in the first cache, from the models' values to the merged one.
The code loops over models, so that it takes as long to compile for fifty of them as for two. Results have the bits
of the kernels for one step each: `task_vectors.subtract`, `election.add_scaled` or `add_voting` and `elect_signs`,
`election.scale_change`, `task_vectors.add_change`, and `sums.sum_squares` in its order of additions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.election import TOTAL, add_scaled, add_voting, elect_signs, scale_change
from dovetail.engine.kernels.emit import (
    F32,
    F64,
    I16,
    I32,
    I64,
    data_of,
    fill,
    integer,
    line_count,
    line_of,
    load,
    loop,
    multiply_add,
    offset,
    pick,
    store,
)
from dovetail.engine.kernels.marks import GROUP, load_marks
from dovetail.engine.kernels.sums import LANES, ROW

_HALF: Final = GROUP // 2
_WIDE = ir.VectorType(F64, _HALF)
_ZEROS = ir.Constant(ir.VectorType(F32, GROUP), [0.0] * GROUP)
_ONES = ir.Constant(ir.VectorType(F32, GROUP), [1.0] * GROUP)
_NOTHING = ir.Constant(_WIDE, [0.0] * _HALF)
_SIGNS = ir.Constant(ir.VectorType(I32, GROUP), [1 << 31] * GROUP)
_CLEAR = ir.Constant(ir.VectorType(I32, GROUP), [0] * GROUP)
_INTEGERS, _FLOATS = ir.VectorType(I32, GROUP), ir.VectorType(F32, GROUP)
_UNMARKED = integer(I16, 0)
_HALVES = (range(_HALF), range(_HALF, GROUP))
_PARTS = range(0, ROW, LANES)


def _widen(builder: Any, vector: Any) -> list[Any]:
    """Give both halves of a group in float64."""
    return [builder.fpext(pick(builder, vector, vector, half), _WIDE) for half in _HALVES]


def _add_square(builder: Any, total: Any, wide: Any) -> Any:
    return builder.fmul(wide, wide) if total is None else multiply_add(builder, wide, wide, total)


class _Squares:
    """Generates the sums of squares of one vector, and of its marked part, of the groups that go to the same lanes."""

    def __init__(self) -> None:
        self.whole: list[Any] = [None, None]
        self.part: list[Any] = [_NOTHING, _NOTHING]

    def add(self, builder: Any, vector: Any, marks: Any | None) -> None:
        for half, wide in enumerate(_widen(builder, vector)):
            self.whole[half] = _add_square(builder, self.whole[half], wide)
            if marks is not None:
                marked = pick(builder, marks, marks, _HALVES[half])
                added = _add_square(builder, self.part[half], wide)
                self.part[half] = builder.select(marked, added, self.part[half])


def _add_to_lanes(builder: Any, lanes: Any, first: Any, sums: Sequence[Any]) -> None:
    for half, found in enumerate(sums):
        place = builder.add(first, integer(I64, half * _HALF))
        store(builder, builder.fadd(load(builder, lanes, place, F64, _HALF, 8), found), lanes, place, 8)


def _is_nan(builder: Any, vector: Any) -> Any:
    return builder.fcmp_unordered("uno", vector, vector)


def _first_nan(builder: Any, operand: Any, result: Any) -> Any:
    """Generate the result of an operation, or its operand where that is NaN: machine code may take another one's."""
    return builder.select(_is_nan(builder, operand), operand, result)


class _Sweep:
    """Generates the work on one group of lanes: the four parts of a row that add to them, of all models.

    Parameters
    ----------
    context, builder, signature, arguments
        As an intrinsic gets them.
    voting, divides
        Whether signs are elected, and whether the sum is divided.

    """

    def __init__(
        self, context: Any, builder: Any, signature: Any, arguments: Any, *, voting: bool, divides: bool
    ) -> None:
        self._builder, self._voting, self._divides = builder, voting, divides
        self._models = line_count(context, builder, signature.args[1], arguments[1])

        def line(argument: int, index: Any) -> Any:
            return line_of(context, builder, signature.args[argument], arguments[argument], index)

        self._line = line
        self._divisor, self._factor = (fill(builder, arguments[i], GROUP) for i in (3, 4))
        self._lanes, self._changes, self._added, self._out = (
            data_of(context, builder, signature.args[i], arguments[i]) for i in (7, 8, 9, 10)
        )

    def merge(self, row: Any, lane: Any) -> None:
        """Generate the merging of the parts of a row, a group in each, from lane `lane` on."""
        builder = self._builder
        first = builder.add(builder.mul(row, integer(I64, ROW)), lane)
        places = [offset(builder, first, part) for part in _PARTS]
        base = [load(builder, self._line(0, integer(I64, 0)), place, F32, GROUP, 4) for place in places]
        totals = self._over_models([_ZEROS] * len(_PARTS), lambda j, sums: self._add_model(j, places, base, lane, sums))
        squares = _Squares()
        for part, place in enumerate(places):
            change = builder.fmul(self._resolve(part, totals[part]), self._factor)
            squares.add(builder, change, None)
            store(builder, change, self._changes, offset(builder, lane, _PARTS[part]), 4)
            quiet = builder.fadd(base[part], _ZEROS)
            merged = _first_nan(builder, quiet, builder.fadd(base[part], change))
            same = builder.fcmp_ordered("==", change, _ZEROS)
            store(builder, builder.select(same, base[part], merged), self._out, place, 4)
        line = builder.add(lane, builder.mul(self._models, integer(I64, 2 * LANES)))
        _add_to_lanes(builder, self._lanes, line, squares.whole)

    def _over_models(self, state: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Generate a loop over all models, so that the code does not grow with their number."""
        return loop(self._builder, self._models, state, body)

    def _slot(self, j: Any, part: int) -> Any:
        """Generate the place of what a model adds to one part."""
        return offset(self._builder, self._builder.mul(j, integer(I64, GROUP * len(_PARTS))), GROUP * part)

    def _scale(self, row: int, j: Any) -> Any:
        """Generate a vector of a model's rescaling factor (row 0) or weight (row 1)."""
        factors = self._line(2, integer(I64, row))
        return fill(self._builder, self._builder.load(self._builder.gep(factors, [j])), GROUP)

    def _add_model(self, j: Any, places: Sequence[Any], base: Sequence[Any], lane: Any, totals: list[Any]) -> list[Any]:
        """Generate what one model adds, its squares, and the sums with it."""
        builder, squares = self._builder, _Squares()
        values, bits = self._line(0, offset(builder, j, 1)), self._line(1, j)
        scale, weight = self._scale(0, j), self._scale(1, j)
        found = []
        for part, place in enumerate(places):
            tau = builder.fsub(load(builder, values, place, F32, GROUP, 4), base[part])
            marks = load_marks(builder, bits, place)
            squares.add(builder, tau, marks)
            scaled = builder.fmul(weight, _first_nan(builder, tau, builder.fmul(scale, tau)))
            added = builder.select(marks, scaled, _ZEROS)
            store(builder, added, self._added, self._slot(j, part), 4)
            found.append(builder.fadd(totals[part], added))
        line = builder.add(lane, builder.mul(j, integer(I64, LANES)))
        _add_to_lanes(builder, self._lanes, line, squares.whole)
        line = builder.add(line, builder.mul(self._models, integer(I64, LANES)))
        _add_to_lanes(builder, self._lanes, line, squares.part)
        return found

    def _settled(self, part: int, total: Any) -> Any:
        """Generate the sum of one part; of several NaN, which have signs too, an election takes the first one."""
        builder, before = self._builder, self._builder.block

        def choose(j: Any, state: list[Any]) -> list[Any]:
            # An addition of two NaN gives the one or the other, depending on the order of operands in the machine code.
            each = load(builder, self._added, self._slot(j, part), F32, GROUP, 4)
            added, stays = builder.fadd(state[0], each), state[0] if self._voting else each
            return [builder.select(_is_nan(builder, stays), stays, added)]

        is_any = builder.icmp_unsigned("!=", builder.bitcast(_is_nan(builder, total), I16), _UNMARKED)
        with builder.if_then(is_any, likely=False):
            (chosen,) = self._over_models([_ZEROS], choose)
            inside = builder.block
        result = builder.phi(_FLOATS)
        result.add_incoming(total, before)
        result.add_incoming(chosen, inside)
        return result

    def _resolve(self, part: int, total: Any) -> Any:
        """Generate the sum of what models add to a part or, with voting, of what has the sum's sign; maybe divided."""
        builder, total = self._builder, self._settled(part, total)
        if not self._voting:
            return builder.fdiv(total, self._divisor) if self._divides else total
        is_plus = builder.fcmp_ordered(">=", total, _ZEROS)
        flips = builder.select(is_plus, _CLEAR, _SIGNS)

        def elect(j: Any, state: list[Any]) -> list[Any]:
            each = load(builder, self._added, self._slot(j, part), F32, GROUP, 4)
            turned = builder.bitcast(builder.xor(builder.bitcast(each, _INTEGERS), flips), _FLOATS)
            agrees = builder.fcmp_ordered(">", turned, _ZEROS)
            added = (each, self._scale(1, j))[: len(state)]
            return [
                builder.fadd(total, builder.select(agrees, value, _ZEROS))
                for total, value in zip(state, added, strict=True)
            ]

        elected, *shares = self._over_models([_ZEROS] * (1 + self._divides), elect)
        # A total that is NaN elects no sign, and the NaN is passed on.
        elected = builder.select(_is_nan(builder, total), total, elected)
        if not shares:
            return elected
        none = builder.fcmp_ordered("==", shares[0], _ZEROS)
        return builder.fdiv(elected, builder.select(none, _ONES, shares[0]))


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, voting: bool, divides: bool) -> Any:
    """Generate the loop over the groups of rows: one for each half of the lanes of a row."""
    sweep = _Sweep(context, builder, signature, arguments, voting=voting, divides=divides)
    first_row, rows = arguments[5], arguments[6]

    def body(index: Any, nothing: list[Any]) -> list[Any]:
        lane = builder.mul(builder.and_(index, integer(I64, 1)), integer(I64, GROUP))
        sweep.merge(builder.add(first_row, builder.lshr(index, integer(I64, 1))), lane)
        return nothing

    loop(builder, builder.shl(rows, integer(I64, 1)), [], body)
    return context.get_dummy_value()


def _make(voting: bool, divides: bool) -> Any:
    @intrinsic
    def merge(typing, lines, bits, factors, divisor, factor, first, rows, lanes, changes, added, out):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return _emit(context, builder, signature, arguments, voting, divides)

        single, whole = types.float32, types.int64
        kinds = lines, bits, factors, single, single, whole, whole, lanes, changes, added, out
        return types.void(*kinds), generate

    return merge


_add: Final[Any] = _make(voting=False, divides=False)
_add_and_divide: Final[Any] = _make(voting=False, divides=True)
_elect: Final[Any] = _make(voting=True, divides=False)
_elect_and_divide: Final[Any] = _make(voting=True, divides=True)


@njit(nogil=True, cache=True)
def _merge_compiled(lines, bits, factors, options, first, rows, lanes, changes, added, out):  # type: ignore[no-untyped-def]
    voting, normalize, divisor, factor = options
    if voting:
        if normalize:
            _elect_and_divide(lines, bits, factors, divisor, factor, first, rows, lanes, changes, added, out)
        else:
            _elect(lines, bits, factors, divisor, factor, first, rows, lanes, changes, added, out)
    elif divisor != np.float32(1.0):
        _add_and_divide(lines, bits, factors, divisor, factor, first, rows, lanes, changes, added, out)
    else:
        _add(lines, bits, factors, divisor, factor, first, rows, lanes, changes, added, out)


def _merge_plainly(lines, bits, factors, options, first, rows, lanes, changes, added, out):  # type: ignore[no-untyped-def]
    voting, normalize, divisor, factor = options
    here, models = slice(first * ROW, (first + rows) * ROW), len(bits)
    marks = np.unpackbits(bits, axis=1, bitorder="little")[:, here]
    base, taus = lines[0, here], lines[1 : models + 1, here] - lines[0, here]
    change, sums = np.zeros(rows * ROW, np.float32), np.zeros((5, rows * ROW), np.float32)
    for j in range(models):
        (scale, weight), total = factors[:, j], change.copy()
        add_scaled(taus[j], marks[j], scale, weight, change)
        each = np.where(np.isnan(taus[j]), taus[j], weight * (scale * taus[j]))
        stays = total if voting else np.where(marks[j] != 0, each, np.float32(0))
        change = np.where(np.isnan(stays), stays, change)  # as in `_Sweep._settled`
        add_voting(taus[j], marks[j], scale, weight, weight, sums)
    if voting:
        sums[TOTAL] = change
        elect_signs(sums, normalize, np.float32(-np.inf), change)
    scale_change(change, divisor, factor)
    kept = np.where(marks != 0, taus, np.float32(0))
    for line, values in zip(lanes, (*taus, *kept, change), strict=True):
        squares = values.astype(np.float64) ** 2
        for row in squares.reshape(rows, ROW // LANES, LANES):
            line += row[0] + row[1] + row[2] + row[3]
    if rows:
        changes[:] = change[-ROW:]
    out[here] = np.where(change == 0, base, np.where(np.isnan(base), base + np.float32(0), base + change))


_merge_rows: Final[Any] = _merge_plainly if settings.DISABLE_JIT else _merge_compiled


@njit(nogil=True, cache=True)
def begin_sums(models):  # type: ignore[no-untyped-def]
    """Make the sums of a run of tiles of so many models, and working memory; see `merge_tile`."""
    lanes = np.zeros((2, 2 * models + 1, LANES))
    return lanes, np.empty(ROW, np.float32), np.empty((models, GROUP * (ROW // LANES)), np.float32)


@njit(nogil=True, cache=True)
def merge_tile(lines, bits, factors, options, count, sums, out):  # type: ignore[no-untyped-def]
    """Merge a tile, and add its squares to those of the run that it belongs to.

    Parameters
    ----------
    lines : float32[K + 1, :]
        Values of the base model, then of each of K models. Lines, marks and `out` reach to whole rows of `sums.ROW`
        elements; what is beyond `count` is used, and may be anything.
    bits : uint8[K, :]
        Marks of one bit of what each model keeps, the lowest bit of a byte first.
    factors, options
        As for `sparsified.sparsified_sum`.
    count : int
        Elements of the tile: whole rows, but in the last tile of a run.
    sums : (float64[2, 2 K + 1, LANES], float32[ROW], float32[K, ROW // 2])
        As `begin_sums` makes them. The lanes of the run's sums, and room for some that nobody wants: zeros before the
        first tile of a run; the kernel adds to them, and `close_run` clears them. What receives the changes of the last
        row. Working memory.
    out : float32[:]
        Receives the merged values.

    """
    lanes, changes, added = sums
    rows = count // ROW
    _merge_rows(lines, bits, factors, options, 0, rows, lanes[0], changes, added, out)
    if count % ROW:  # what does not fill a row goes to no lane, but is added up last
        _merge_rows(lines, bits, factors, options, rows, 1, lanes[1], changes, added, out)


@njit(nogil=True, cache=True)
def close_run(lines, bits, count, sums, squares):  # type: ignore[no-untyped-def]
    """Add up the lanes of a run after its last tile, and what does not fill a row; clear the lanes.

    Parameters
    ----------
    lines, bits, count, sums
        As `merge_tile` was given them for the last tile.
    squares : float64[2 K + 1]
        Sums of squares of the task vectors, of their kept parts, and of the change, which the kernel adds to.

    Returns
    -------
    bool
        Whether all task vectors are finite: their squares do not overflow float64.

    """
    (lanes, changes, _), models, whole = sums, len(bits), count // ROW * ROW
    finite = True
    for j in range(models):
        square, kept = 0.0, 0.0
        for lane in range(LANES):
            square += lanes[0, j, lane]
            kept += lanes[0, models + j, lane]
        for i in range(whole, count):
            tau = np.float64(np.float32(lines[j + 1, i] - lines[0, i]))
            square += tau * tau
            if (bits[j, i >> 3] >> np.uint8(i & 7)) & np.uint8(1):
                kept += tau * tau
        squares[j] += square
        squares[models + j] += kept
        finite &= np.isfinite(square)
    square = 0.0
    for lane in range(LANES):
        square += lanes[0, 2 * models, lane]
    for i in range(count - whole):
        square += np.float64(changes[i]) * np.float64(changes[i])
    squares[2 * models] += square
    lanes[:] = 0.0
    return finite

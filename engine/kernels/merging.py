"""Merging the marked parts of task vectors in one sweep over all models: changes, their sum or election, and squares.

All that is computed of an element stays in registers from the models' values to the merged one. Results have the bits
of the kernels for one step each: `task_vectors.subtract`, `election.add_scaled` or `add_voting` and `elect_signs`,
`election.scale_change`, `task_vectors.add_change`, and `sums.sum_squares` in its order of additions.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    lines_of,
    load,
    loop,
    multiply_add,
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


def _add_up(builder: Any, contributions: Sequence[Any], voting: bool) -> Any:
    """Generate the sum of contributions; of several NaN, which have signs too, an election takes the first one."""
    total = _ZEROS
    for each in contributions:
        total = builder.fadd(total, each)
    before = builder.block
    is_any = builder.icmp_unsigned("!=", builder.bitcast(_is_nan(builder, total), I16), _UNMARKED)
    with builder.if_then(is_any, likely=False):
        # An addition of two NaN gives the one or the other, depending on the order of operands in the machine code.
        chosen = _ZEROS
        for each in contributions:
            added, stays = builder.fadd(chosen, each), chosen if voting else each
            chosen = builder.select(_is_nan(builder, stays), stays, added)
        inside = builder.block
    result = builder.phi(_FLOATS)
    result.add_incoming(total, before)
    result.add_incoming(chosen, inside)
    return result


def _is_nan(builder: Any, vector: Any) -> Any:
    return builder.fcmp_unordered("uno", vector, vector)


def _first_nan(builder: Any, operand: Any, result: Any) -> Any:
    """Generate the result of an operation, or its operand where that is NaN: machine code may take another one's."""
    return builder.select(_is_nan(builder, operand), operand, result)


def _resolve(
    builder: Any, contributions: Sequence[Any], weights: Sequence[Any], voting: bool, divisor: Any | None
) -> Any:
    """Generate the sum of contributions or, with voting, of those that have its sign; `divisor` says if it divides."""
    total = _add_up(builder, contributions, voting)
    if not voting:
        return total if divisor is None else builder.fdiv(total, divisor)
    is_plus = builder.fcmp_ordered(">=", total, _ZEROS)
    flips = builder.select(is_plus, _CLEAR, _SIGNS)
    elected = shares = _ZEROS
    for each, weight in zip(contributions, weights, strict=True):
        turned = builder.bitcast(builder.xor(builder.bitcast(each, _INTEGERS), flips), _FLOATS)
        agrees = builder.fcmp_ordered(">", turned, _ZEROS)
        elected = builder.fadd(elected, builder.select(agrees, each, _ZEROS))
        shares = builder.fadd(shares, builder.select(agrees, weight, _ZEROS))
    # A total that is NaN elects no sign, and the NaN is passed on.
    elected = builder.select(_is_nan(builder, total), total, elected)
    if divisor is None:
        return elected
    shares = builder.select(builder.fcmp_ordered("==", shares, _ZEROS), _ONES, shares)
    return builder.fdiv(elected, shares)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, voting: bool, divides: bool) -> Any:
    """Generate the loop over the groups of rows: one for each half of the lanes of a row."""
    kinds, models = signature.args, signature.args[0].count
    lines = lines_of(context, builder, kinds[1], arguments[1], models + 1)
    bits = lines_of(context, builder, kinds[2], arguments[2], models)
    rows_of_factors = lines_of(context, builder, kinds[3], arguments[3], 2)
    scales, weights = (
        [fill(builder, builder.load(builder.gep(row, [integer(I64, j)])), GROUP) for j in range(models)]
        for row in rows_of_factors
    )
    divisor, factor = fill(builder, arguments[4], GROUP) if divides else None, fill(builder, arguments[5], GROUP)
    first_row, rows = arguments[6], arguments[7]
    lanes, changes, out = (data_of(context, builder, kinds[i], arguments[i]) for i in (8, 9, 10))

    def sweep(index: Any, nothing: list[Any]) -> list[Any]:
        lane = builder.mul(builder.and_(index, integer(I64, 1)), integer(I64, GROUP))
        row = builder.add(first_row, builder.lshr(index, integer(I64, 1)))
        first = builder.add(builder.mul(row, integer(I64, ROW)), lane)
        squares = [_Squares() for _ in range(models + 1)]
        for part in range(0, ROW, LANES):
            place = builder.add(first, integer(I64, part))
            base, contributions = load(builder, lines[0], place, F32, GROUP, 4), []
            for j in range(models):
                tau = builder.fsub(load(builder, lines[j + 1], place, F32, GROUP, 4), base)
                marks = load_marks(builder, bits[j], place)
                squares[j].add(builder, tau, marks)
                scaled = builder.fmul(weights[j], _first_nan(builder, tau, builder.fmul(scales[j], tau)))
                contributions.append(builder.select(marks, scaled, _ZEROS))
            change = builder.fmul(_resolve(builder, contributions, weights, voting, divisor), factor)
            squares[models].add(builder, change, None)
            store(builder, change, changes, builder.add(lane, integer(I64, part)), 4)
            quiet = builder.fadd(base, _ZEROS)
            merged = _first_nan(builder, quiet, builder.fadd(base, change))
            store(builder, builder.select(builder.fcmp_ordered("==", change, _ZEROS), base, merged), out, place, 4)
        for j, found in enumerate(squares):
            line = j if j < models else 2 * models
            _add_to_lanes(builder, lanes, builder.add(lane, integer(I64, line * LANES)), found.whole)
            if j < models:
                _add_to_lanes(builder, lanes, builder.add(lane, integer(I64, (models + j) * LANES)), found.part)
        return nothing

    loop(builder, builder.shl(rows, integer(I64, 1)), [], sweep)
    return context.get_dummy_value()


def _make(voting: bool, divides: bool) -> Any:
    @intrinsic
    def merge(typing, sources, lines, bits, factors, divisor, factor, first, rows, lanes, changes, out):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return _emit(context, builder, signature, arguments, voting, divides)

        single, whole = types.float32, types.int64
        return types.void(sources, lines, bits, factors, single, single, whole, whole, lanes, changes, out), generate

    return merge


_add: Final[Any] = _make(voting=False, divides=False)
_add_and_divide: Final[Any] = _make(voting=False, divides=True)
_elect: Final[Any] = _make(voting=True, divides=False)
_elect_and_divide: Final[Any] = _make(voting=True, divides=True)


@njit(nogil=True, cache=True)
def _merge_compiled(sources, lines, bits, factors, options, first, rows, lanes, changes, out):  # type: ignore[no-untyped-def]
    voting, normalize, divisor, factor = options
    if voting:
        if normalize:
            _elect_and_divide(sources, lines, bits, factors, divisor, factor, first, rows, lanes, changes, out)
        else:
            _elect(sources, lines, bits, factors, divisor, factor, first, rows, lanes, changes, out)
    elif divisor != np.float32(1.0):
        _add_and_divide(sources, lines, bits, factors, divisor, factor, first, rows, lanes, changes, out)
    else:
        _add(sources, lines, bits, factors, divisor, factor, first, rows, lanes, changes, out)


def _merge_plainly(sources, lines, bits, factors, options, first, rows, lanes, changes, out):  # type: ignore[no-untyped-def]
    voting, normalize, divisor, factor = options
    here, models = slice(first * ROW, (first + rows) * ROW), len(sources)
    marks = np.unpackbits(bits, axis=1, bitorder="little")[:, here]
    base, taus = lines[0, here], lines[1 : models + 1, here] - lines[0, here]
    change, sums = np.zeros(rows * ROW, np.float32), np.zeros((5, rows * ROW), np.float32)
    for j in range(models):
        (scale, weight), total = factors[:, j], change.copy()
        add_scaled(taus[j], marks[j], scale, weight, change)
        each = np.where(np.isnan(taus[j]), taus[j], weight * (scale * taus[j]))
        stays = total if voting else np.where(marks[j] != 0, each, np.float32(0))
        change = np.where(np.isnan(stays), stays, change)  # as in `_add_up`
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
def merge_tile(sources, lines, bits, factors, options, count, sums, out):  # type: ignore[no-untyped-def]
    """Merge a tile, and add its squares to those of the run that it belongs to.

    Parameters
    ----------
    sources : tuple
        As many of anything as there are models, K: kernels are compiled for their number.
    lines : float32[K + 1, :]
        Values of the base model, then of each model. Lines, marks and `out` reach to whole rows of `sums.ROW` elements;
        what is beyond `count` is used, and may be anything.
    bits : uint8[K, :]
        Marks of one bit of what each model keeps, the lowest bit of a byte first.
    factors, options
        As for `sparsified.sparsified_sum`.
    count : int
        Elements of the tile: whole rows, but in the last tile of a run.
    sums : (float64[2, 2 K + 1, LANES], float32[ROW])
        The lanes of the run's sums, and room for some that nobody wants: zeros before the first tile of a run. The
        kernel adds to them, and `close_run` clears them. Receives the changes of the last row.
    out : float32[:]
        Receives the merged values.

    """
    lanes, changes = sums
    rows = count // ROW
    _merge_rows(sources, lines, bits, factors, options, 0, rows, lanes[0], changes, out)
    if count % ROW:  # what does not fill a row goes to no lane, but is added up last
        _merge_rows(sources, lines, bits, factors, options, rows, 1, lanes[1], changes, out)


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
    (lanes, changes), models, whole = sums, len(bits), count // ROW * ROW
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

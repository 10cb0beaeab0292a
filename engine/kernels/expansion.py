"""Spreading packed values over the places that marks of one bit give them.

Processors with AVX2 put 8 values in their places by one instruction, for which a table has the places of all 256
combinations of 8 marks. (AVX-512 has an instruction that needs no table, and takes longer on some processors.)
Elsewhere a loop goes through the marked places. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.bits import lowest_one
from dovetail.engine.kernels.emit import (
    F32,
    F64,
    I1,
    I8,
    I32,
    I64,
    concatenate,
    constant,
    data_of,
    declare,
    fill,
    integer,
    load,
    loop,
    offset,
    store,
    sum_lanes,
)

WORD: Final = 64
"""Marks in a word."""

LANES: Final = 16
"""Partial sums of squares."""

GROUP: Final = 8
"""Elements that are spread at once."""

_FLOATS: Final = ir.VectorType(F32, GROUP)
_DOUBLES: Final = ir.VectorType(F64, GROUP)
_NUMBERS: Final = ir.VectorType(I32, GROUP)
_PLACES: Final = ir.VectorType(I8, GROUP)
_MARKS: Final = ir.VectorType(I1, GROUP)
_NOTHING: Final = ir.Constant(_FLOATS, [0.0] * GROUP)

SLACK: Final = GROUP
"""Elements by which arrays of values reach beyond the last value that is used."""

_NONE, _ONE = np.uint64(0), np.uint64(1)
_ZERO = np.float32(0.0)


def _places() -> Any:
    """Make the table of what goes where: for each combination of 8 marks, how many come before each element."""
    rows = [[(marks & ((1 << place) - 1)).bit_count() for place in range(GROUP)] for marks in range(1 << GROUP)]
    return ir.Constant(ir.ArrayType(_PLACES, len(rows)), [constant(I8, row) for row in rows])


def spread_group(builder: Any, found: Any, mask: Any, before: Any) -> tuple[Any, Any]:
    """Generate code that spreads the values of 8 elements.

    Parameters
    ----------
    builder
        Where to generate it.
    found
        The next 8 values of the model: those of the marked elements first.
    mask
        Eight marks, as an integer of 8 bits.
    before
        The base model's 8 values.

    Returns
    -------
    marks, change
        The marks as a vector of bits, and by how much the model changes the values: 0 where it keeps nothing.

    """
    global_constant: Any = cgutils.global_constant
    table = builder.bitcast(global_constant(builder, "places", _places()), _PLACES.as_pointer())
    places = builder.zext(builder.load(builder.gep(table, [builder.zext(mask, I64)]), align=GROUP), _NUMBERS)
    permute = declare(builder, "llvm.x86.avx2.permps", ir.FunctionType(_FLOATS, [_FLOATS, _NUMBERS]))
    marks = builder.bitcast(mask, _MARKS)
    return marks, builder.select(marks, builder.fsub(builder.call(permute, [found, places]), before), _NOTHING)


_Step = Callable[[Any, Any, Any, list[Any]], list[Any]]
"""Takes the place of 8 elements, their marks, their changes, and what is carried from each 8 to the next."""


def _each_group(builder: Any, data: Sequence[Any], numbers: Sequence[Any], carried: list[Any], step: _Step) -> Any:
    """Generate a loop over words of marks, which hands the changes of each 8 elements to a step."""
    (words, values, base), (first, count, at, place) = data, numbers

    def go_on(i: Any, state: list[Any]) -> list[Any]:
        at, *others = state
        word = builder.load(builder.gep(words, [builder.add(first, i)]))
        start = builder.add(place, builder.mul(i, integer(I64, WORD)))
        for low in range(0, WORD, GROUP):
            here, mask = offset(builder, start, low), builder.trunc(builder.lshr(word, integer(I64, low)), I8)
            found, before = load(builder, values, at, F32, GROUP, 4), load(builder, base, here, F32, GROUP, 4)
            marks, change = spread_group(builder, found, mask, before)
            others = step(here, marks, change, others)
            at = builder.add(at, builder.zext(builder.ctpop(mask), I64))
        return [at, *others]

    return loop(builder, count, [at, *carried], go_on)


@intrinsic
def _spread(typing, words, first, count, values, at, base, tau, place):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args
        words, values, base, tau = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 3, 5, 6))

        def keep(here: Any, marks: Any, change: Any, state: list[Any]) -> list[Any]:
            store(builder, change, tau, here, 4)
            return state

        numbers = [arguments[i] for i in (1, 2, 4, 7)]
        return _each_group(builder, (words, values, base), numbers, [], keep)[0]

    return types.int64(words, types.int64, types.int64, values, types.int64, base, tau, types.int64), generate


@intrinsic
def _add(typing, words, first, count, values, at, base, total, place, scale, weight):  # type: ignore[no-untyped-def]
    make_tuple: Any = types.Tuple
    # Ten arguments, but none is passed: an intrinsic is generated into its caller.
    result = make_tuple((types.int64, types.float64))

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = signature.args
        words, values, base, total = (data_of(context, builder, kinds[i], arguments[i]) for i in (0, 3, 5, 6))
        scales, weights = (fill(builder, arguments[i], GROUP) for i in (8, 9))

        def add(here: Any, marks: Any, change: Any, state: list[Any]) -> list[Any]:
            before = load(builder, total, here, F32, GROUP, 4)
            after = builder.fadd(before, builder.fmul(weights, builder.fmul(scales, change)))
            store(builder, builder.select(marks, after, before), total, here, 4)
            wide = builder.fpext(change, _DOUBLES)
            this, other = state
            return [other, builder.fadd(this, builder.fmul(wide, wide))]

        numbers, zeros = [arguments[i] for i in (1, 2, 4, 7)], ir.Constant(_DOUBLES, [0.0] * GROUP)
        at, *squares = _each_group(builder, (words, values, base), numbers, [zeros, zeros], add)
        return context.make_tuple(
            builder, signature.return_type, [at, sum_lanes(builder, concatenate(builder, squares))]
        )

    int64, float32 = types.int64, types.float32
    return result(words, int64, int64, values, int64, base, total, int64, float32, float32), generate


@njit(nogil=True, cache=True)
def spread_word(word, low, high, values, at, base, tau):  # type: ignore[no-untyped-def]
    """Spread the values of one word over ``tau[low:high]``, the word's bits being those of the elements from `low` on.

    Returns
    -------
    int
        The place of the next value.

    """
    # Parts of arrays, because places within a word need fewer checks than places within the run.
    before, after = base[low:high], tau[low:high]
    for i in range(len(after)):
        after[i] = _ZERO
    while word != _NONE:
        i = lowest_one(word)
        after[i] = np.float32(values[at] - before[i])
        word &= np.uint64(word - _ONE)
        at += 1
    return at


@njit(nogil=True, cache=True)
def add_word(word, low, high, values, at, base, total, scale, weight, lanes):  # type: ignore[no-untyped-def]
    """Add the contributions of one word to ``total[low:high]``, and squares of changes to 16 partial sums.

    Returns
    -------
    int
        The place of the next value.

    """
    before, sums = base[low:high], total[low:high]
    while word != _NONE:
        i = lowest_one(word)
        tau = np.float32(values[at] - before[i])
        sums[i] = np.float32(sums[i] + np.float32(weight * np.float32(scale * tau)))
        lanes[i & (LANES - 1)] += np.float64(tau) * np.float64(tau)
        word &= np.uint64(word - _ONE)
        at += 1
    return at


@njit(nogil=True, cache=True)
def total_lanes(lanes):  # type: ignore[no-untyped-def]
    """Add up partial sums: the second half is added to the first until one is left."""
    half = len(lanes) // 2
    while half > 0:
        for i in range(half):
            lanes[i] += lanes[half + i]
        half //= 2
    return lanes[0]


@njit(nogil=True, cache=True)
def _spread_by_places(words, first, count, values, at, base, tau, place):  # type: ignore[no-untyped-def]
    for i in range(count):
        low = place + i * WORD
        at = spread_word(words[first + i], low, low + WORD, values, at, base, tau)
    return at


@njit(nogil=True, cache=True)
def _add_by_places(words, first, count, values, at, base, total, place, scale, weight):  # type: ignore[no-untyped-def]
    lanes = np.zeros(LANES, np.float64)
    for i in range(count):
        low = place + i * WORD
        at = add_word(words[first + i], low, low + WORD, values, at, base, total, scale, weight, lanes)
    return at, total_lanes(lanes)


_IS_FOR_HERE: Final = not (settings.CPU_NAME or settings.CPU_FEATURES)  # not for another processor, by numba's settings
_HAS_PERMUTATION: Final = _IS_FOR_HERE and bool(binding.get_host_cpu_features().get("avx2"))

BY_INSTRUCTIONS: Final = _HAS_PERMUTATION and not settings.DISABLE_JIT
"""Whether values are spread by vector instructions."""

spread_words: Final[Any] = _spread if BY_INSTRUCTIONS else _spread_by_places
"""``spread_words(words, first, count, values, at, base, tau, place) -> at``

Make a task vector of whole words of marks: where the model keeps an element, its value minus the base model's, else 0.

Parameters
----------
words : uint64[:]
    Marks, 64 in a word, the lowest bit first.
first, count : int
    The first word, and how many there are.
values : float32[:]
    The model's values at the marks, one after another; `SLACK` elements of any values follow them.
at : int
    The first value that belongs to these words.
base : float32[:]
    The base model's values.
tau : float32[:]
    Receives the task vector.
place : int
    The element of `base` and `tau` that the first mark is of; both reach to the end of the words.

Returns
-------
int
    The place of the value after the last.
"""

add_words: Final[Any] = _add if BY_INSTRUCTIONS else _add_by_places
"""``add_words(words, first, count, values, at, base, total, place, scale, weight) -> (at, squares)``

Add the contributions of whole words of marks to a sum: ``total += weight * (scale * (value - base))`` at the marks.

Parameters
----------
words, first, count, values, at, base, place
    As for `spread_words`.
total : float32[:]
    The sum, which is changed at the marks alone.
scale, weight : float32
    The factors.

Returns
-------
int, float
    The place of the value after the last, and the sum of the squares of ``value - base``: element i of a word is added
    to partial sum i modulo 16.
"""

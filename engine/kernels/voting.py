"""Electing the signs of a tile's changes in one sweep over all models, with sums that stay in registers.

The result has the bits of `election.add_voting` for one model after another and `election.elect_signs`, which keep
their sums in memory, for any number of models and from any source.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.election import add_voting, elect_signs
from dovetail.engine.kernels.emit import F32, I8, I64, data_of, fill, integer, lines_of, load, loop, store

GROUP: Final = 16
"""Elements that are elected at once: the arrays have a multiple of them."""

_ZEROS = ir.Constant(ir.VectorType(F32, GROUP), [0.0] * GROUP)
_ONES = ir.Constant(ir.VectorType(F32, GROUP), [1.0] * GROUP)
_UNMARKED = ir.Constant(ir.VectorType(I8, GROUP), [0] * GROUP)
_NO_LEAST = np.float32(-np.inf)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, divides: bool) -> Any:
    """Generate the loop of an election, which divides by the shares of the models that have the elected sign or not."""
    kinds = signature.args
    models = kinds[0].count
    taus, masks, factors = (
        lines_of(context, builder, kinds[i], arguments[i], count) for i, count in ((1, models), (2, models), (3, 2))
    )
    change = data_of(context, builder, kinds[5], arguments[5])
    scales, weights = (
        [fill(builder, builder.load(builder.gep(row, [integer(I64, j)])), GROUP) for j in range(models)]
        for row in factors
    )

    def add_where(sum_: Any, condition: Any, number: Any) -> Any:
        return builder.fadd(sum_, builder.select(condition, number, _ZEROS))

    def sweep(group: Any, nothing: list[Any]) -> list[Any]:
        place = builder.mul(group, integer(I64, GROUP))
        total = positive = negative = above = below = _ZEROS
        for tau, mask, scale, weight in zip(taus, masks, scales, weights, strict=True):
            scaled = builder.fmul(weight, builder.fmul(scale, load(builder, tau, place, F32, GROUP, 4)))
            marked = builder.icmp_unsigned("!=", load(builder, mask, place, I8, GROUP, 1), _UNMARKED)
            contribution = builder.select(marked, scaled, _ZEROS)
            total = builder.fadd(total, contribution)
            plus, minus = (builder.fcmp_ordered(sign, contribution, _ZEROS) for sign in "><")
            positive, negative = add_where(positive, plus, contribution), add_where(negative, minus, contribution)
            above, below = add_where(above, plus, weight), add_where(below, minus, weight)
        is_plus = builder.fcmp_ordered(">=", total, _ZEROS)
        elected = builder.select(is_plus, positive, negative)
        # A total that is NaN elects no sign, and the NaN is passed on.
        elected = builder.select(builder.fcmp_ordered("ord", total, total), elected, total)
        if divides:
            divisor = builder.select(is_plus, above, below)
            divisor = builder.select(builder.fcmp_ordered("==", divisor, _ZEROS), _ONES, divisor)
            elected = builder.fdiv(elected, divisor)
        store(builder, elected, change, place, 4)
        return nothing

    groups = builder.udiv(builder.add(arguments[4], integer(I64, GROUP - 1)), integer(I64, GROUP))
    loop(builder, groups, [], sweep)
    return context.get_dummy_value()


@intrinsic
def _elect(typing, sources, taus, masks, factors, count, change):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, divides=False)

    return types.void(sources, taus, masks, factors, types.int64, change), generate


@intrinsic
def _elect_and_divide(typing, sources, taus, masks, factors, count, change):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, divides=True)

    return types.void(sources, taus, masks, factors, types.int64, change), generate


def _elect_plainly(sources, taus, masks, factors, count, change, divides=False):  # type: ignore[no-untyped-def]
    sums = np.zeros((5, count), np.float32)
    for tau, mask, scale, weight in zip(taus, masks, *factors, strict=True):
        add_voting(tau[:count], mask[:count], scale, weight, weight, sums)
    elect_signs(sums, divides, _NO_LEAST, change[:count])


def _elect_and_divide_plainly(sources, taus, masks, factors, count, change):  # type: ignore[no-untyped-def]
    _elect_plainly(sources, taus, masks, factors, count, change, divides=True)  # type: ignore[no-untyped-call]


elect: Final[Any] = _elect_plainly if settings.DISABLE_JIT else _elect
elect_and_divide: Final[Any] = _elect_and_divide_plainly if settings.DISABLE_JIT else _elect_and_divide


@njit(nogil=True, cache=True)
def vote(sources, taus, masks, factors, normalize, count, change):  # type: ignore[no-untyped-def]
    """Elect a sign for every element of a tile, and take the sum or the mean of the contributions of that sign.

    Parameters
    ----------
    sources : tuple
        As many of anything as there are models, K: kernels are compiled for their number.
    taus : float32[K, :]
        Task vectors. Its lines, and those of `masks` and `change`, reach to a multiple of `GROUP` elements; what is
        beyond `count` is used, and may be anything.
    masks : uint8[K, :]
        Not 0 where the model keeps the element.
    factors : float32[2, K]
        What each model's kept part is multiplied by, first its rescaling factor, then its weight.
    normalize : bool
        Whether to take the mean: to divide by the weights of the models with the elected sign, if they are not 0.
    count : int
        Elements of the tile.
    change : float32[:]
        Receives the change; NaN where the sum of all contributions is NaN.

    """
    if normalize:
        elect_and_divide(sources, taus, masks, factors, count, change)
    else:
        elect(sources, taus, masks, factors, count, change)

"""Instructions on words of bits that numba has no functions for."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic


@intrinsic
def _count_ones(typing, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def _lowest_one(typing, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def _count_ones_plainly(word: Any) -> int:
    return int(word).bit_count()


def _lowest_one_plainly(word: Any) -> int:
    return (int(word) & -int(word)).bit_length() - 1


_IS_PLAIN: Final = bool(getattr(config, "DISABLE_JIT", 0))
"""Whether kernels are not compiled, but run as plain Python, which has no such instructions."""

count_ones: Final[Any] = _count_ones_plainly if _IS_PLAIN else _count_ones
"""Counts the bits of a uint64 that are 1."""

lowest_one: Final[Any] = _lowest_one_plainly if _IS_PLAIN else _lowest_one
"""Gives the place of the lowest bit that is 1 in a uint64, which is not 0."""

"""Asking the processor for memory before it is needed, while there is other work to do."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import I32, data_of, declare, integer

_LINE_BYTES = 64


@intrinsic
def _prefetch(typing, array, place):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address = builder.gep(data_of(context, builder, signature.args[0], arguments[0]), [arguments[1]])
        read, second_level_cache, data = (integer(I32, value) for value in (0, 2, 1))
        kind = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
        builder.call(declare(builder, "llvm.prefetch.p0", kind), [address, read, second_level_cache, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def _plain_prefetch(array, place):  # type: ignore[no-untyped-def]
    """Do nothing: the memory comes when it is read."""


_ask: Any = _plain_prefetch if settings.DISABLE_JIT else _prefetch


@njit(nogil=True, cache=True)
def fetch_ahead(ahead, fetched, done, count):  # type: ignore[no-untyped-def]
    """Ask for as much of `ahead` as `done` is of `count`.

    Parameters
    ----------
    ahead : uint8[:]
        What is needed next.
    fetched : int
        Bytes asked for so far.
    done, count : int
        Elements worked on, and how many there are.

    Returns
    -------
    int
        Bytes asked for now.

    """
    until = len(ahead) * done // count
    while fetched < until:
        _ask(ahead, fetched)
        fetched += _LINE_BYTES
    return fetched

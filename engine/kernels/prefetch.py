"""Asking the processor to fetch memory into its cache before the memory is read, while it does other work."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import I32, data_of, declare, integer

LINE_BYTES = 64
"""Bytes that the processor fetches at a time."""


def ask_for(builder: Any, address: Any) -> None:
    """Generate a request for the line of memory at an address, which may lie behind the end of what is mapped."""
    read, all_caches, data = (integer(I32, value) for value in (0, 3, 1))
    kind = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
    builder.call(declare(builder, "llvm.prefetch.p0", kind), [address, read, all_caches, data])


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
    """Do nothing: memory that has not been asked for is fetched when it is read."""


_ask: Any = _plain_prefetch if settings.DISABLE_JIT else _prefetch


@njit(nogil=True, cache=True)
def fetch_ahead(ahead, fetched, done, count):  # type: ignore[no-untyped-def]
    """Ask for the beginning of `ahead`, up to the fraction of it that `done` is of `count`.

    Parameters
    ----------
    ahead : uint8[:]
        The memory that is read next.
    fetched : int
        Bytes of it that were asked for so far.
    done, count : int
        How many elements are finished, and how many there are.

    Returns
    -------
    int
        Bytes that have been asked for now.

    """
    until = len(ahead) * done // count
    while fetched < until:
        _ask(ahead, fetched)
        fetched += LINE_BYTES
    return fetched

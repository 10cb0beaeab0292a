"""Random numbers that depend only on a key and a position: Philox4x32-7.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", https://doi.org/10.1145/2063384.2063405. Seven rounds are
the fewest in their table 2 that pass every test of BigCrush. Words of 32 bits are held in integers of 64, because their
products take 64 bits. What is the same for all blocks of a group is computed once for it: the first rounds have half of
the work of the others.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dovetail.engine.kernels import settings
from dovetail.engine.kernels.emit import I32, I64, constant, data_of, fill, integer, loop, store
from dovetail.engine.kernels.marks import store_marks, take_bits

_LOW, _HALF = 0xFFFFFFFF, 32
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 7
"""Number of rounds of the bijection."""
WORDS = 4
"""Words in the output of one counter: a block."""
_BLOCKS: Final = 64
GROUP = WORDS * _BLOCKS
"""Words of a group: 64 blocks that are computed together."""
_LANES: Final = 8
"""Blocks that are computed at once."""
_BYTE: Final = 8

_WIDE = ir.VectorType(I64, _LANES)


def _low(builder: Any, number: Any) -> Any:
    """Generate the lower half of a number, or of every lane."""
    half = constant(I64, [_LOW] * _LANES) if number.type == _WIDE else integer(I64, _LOW)
    return builder.and_(number, half)


def _high(builder: Any, number: Any) -> Any:
    shift = constant(I64, [_HALF] * _LANES) if number.type == _WIDE else integer(I64, _HALF)
    return builder.lshr(number, shift)


def _mix(builder: Any, *numbers: Any) -> Any:
    """Generate the exclusive or of numbers; what is the same in every lane comes first, and becomes a vector last."""
    same, *others = sorted(numbers, key=lambda number: number.type == _WIDE)
    for each in others:
        if each.type == _WIDE and same.type != _WIDE:
            same = fill(builder, same, _LANES)
        same = builder.xor(same, each)
    return same


def _multiply(builder: Any, factor: int, number: Any) -> Any:
    """Generate the product of the lower half of a number with a constant."""
    by = constant(I64, [factor] * _LANES) if number.type == _WIDE else integer(I64, factor)
    return builder.mul(_low(builder, number), by)


def _emit(context: Any, builder: Any, signature: Any, arguments: Any, draws: bool) -> Any:
    """Generate the loop over the blocks of groups, eight at a time; it stores words or, if it draws, marks."""
    k0, k1, stream, first, groups, edge, out = arguments
    data = data_of(context, builder, signature.args[6], out)
    keys = [
        tuple(_low(builder, builder.add(key, integer(I64, step * r))) for key, step in ((k0, _W0), (k1, _W1)))
        for r in range(ROUNDS)
    ]
    below = fill(builder, edge, _LANES)

    def sweep(index: Any, nothing: list[Any]) -> list[Any]:
        group = builder.lshr(index, integer(I64, 3))
        eighth = builder.mul(builder.and_(index, integer(I64, 7)), integer(I64, _LANES))
        begin = builder.add(builder.mul(builder.add(first, group), integer(I64, _BLOCKS)), eighth)
        lanes = builder.add(fill(builder, _low(builder, begin), _LANES), constant(I64, range(_LANES)))
        words = [lanes, _high(builder, begin), _low(builder, stream), _high(builder, stream)]
        for key0, key1 in keys:
            p0, p1 = _multiply(builder, _M0, words[0]), _multiply(builder, _M1, words[2])
            words = [
                _mix(builder, _high(builder, p1), _low(builder, words[1]), key0),
                p1,
                _mix(builder, _high(builder, p0), _low(builder, words[3]), key1),
                p0,
            ]
        for number, word in enumerate(words):
            place = builder.add(
                builder.mul(group, integer(I64, GROUP)), builder.add(eighth, integer(I64, number * _BLOCKS))
            )
            if draws:
                marks = builder.icmp_unsigned("<", _low(builder, word), below)
                store_marks(builder, marks, data, place)
            else:
                store(builder, builder.trunc(word, ir.VectorType(I32, _LANES)), data, place, 4)
        return nothing

    loop(builder, builder.mul(groups, integer(I64, _BLOCKS // _LANES)), [], sweep)
    return context.get_dummy_value()


@intrinsic
def _store_words(typing, k0, k1, stream, first, groups, edge, out):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, draws=False)

    word = types.uint64
    return types.void(word, word, word, word, types.int64, word, out), generate


@intrinsic
def _store_marks(typing, k0, k1, stream, first, groups, edge, out):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _emit(context, builder, signature, arguments, draws=True)

    word = types.uint64
    return types.void(word, word, word, word, types.int64, word, out), generate


def _words_plainly(k0, k1, stream, first, groups, edge, out):  # type: ignore[no-untyped-def]
    low, half, m0, m1 = (np.uint64(number) for number in (_LOW, _HALF, _M0, _M1))
    place = np.uint64(first * np.uint64(_BLOCKS)) + np.arange(groups * _BLOCKS, dtype=np.uint64)
    c0, c1 = place & low, place >> half
    c2, c3 = np.full_like(place, stream & low), np.full_like(place, stream >> half)
    for r in range(ROUNDS):
        key0, key1 = np.uint64((int(k0) + r * _W0) & _LOW), np.uint64((int(k1) + r * _W1) & _LOW)
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ key0, p1 & low, (p0 >> half) ^ c3 ^ key1, p0 & low
    words = np.stack([each.reshape(-1, _BLOCKS) for each in (c0, c1, c2, c3)], axis=1)
    out[: groups * GROUP] = words.ravel()


def _marks_plainly(k0, k1, stream, first, groups, edge, out):  # type: ignore[no-untyped-def]
    words = np.empty(groups * GROUP, np.uint64)
    _words_plainly(k0, k1, stream, first, groups, edge, words)  # type: ignore[no-untyped-call]
    out[: groups * GROUP // _BYTE] = np.packbits(words < edge, bitorder="little")


_fill_words: Final[Any] = _words_plainly if settings.DISABLE_JIT else _store_words
_fill_marks: Final[Any] = _marks_plainly if settings.DISABLE_JIT else _store_marks


@njit(nogil=True, cache=True)
def _fill_groups(key: np.ndarray, stream: int, first: int, words: np.ndarray) -> None:
    """Write the words of whole groups."""
    groups = len(words) // GROUP
    _fill_words(key[0], key[1], np.uint64(stream), np.uint64(first), groups, np.uint64(0), words)


@njit(nogil=True, cache=True)
def _fill_part(key: np.ndarray, stream: int, group: int, skip: int, out: np.ndarray) -> None:
    """Write words of one group, from word `skip` of it on."""
    words = np.empty(GROUP, np.uint32)
    _fill_groups(key, stream, group, words)
    out[:] = words[skip : skip + len(out)]


@njit(nogil=True, cache=True)
def random_words(key: np.ndarray, stream: int, start: int, out: np.ndarray) -> None:
    """Write consecutive random words of a stream.

    A stream consists of groups of 64 blocks; a group holds the first word of each of its blocks, then the second word
    of each, and so on. Word i of the stream is word i // 64 % 4 of the block with the counter (i // 256 * 64 + i % 64,
    stream).

    Parameters
    ----------
    key : uint64[2]
        The key, two words of 32 bits.
    stream : int
        Number of the stream: the upper 64 bits of the counter.
    start : int
        Position in the stream of the first word.
    out : uint32[:]
        Receives the words.

    """
    first, skip = start // GROUP, start % GROUP
    head = min(len(out), (GROUP - skip) % GROUP)
    whole = (len(out) - head) // GROUP * GROUP
    if head > 0:
        _fill_part(key, stream, first, skip, out[:head])
        first += 1
    _fill_groups(key, stream, first, out[head : head + whole])
    if head + whole < len(out):
        _fill_part(key, stream, first + whole // GROUP, 0, out[head + whole :])


@njit(nogil=True, cache=True)
def random_marks(key: np.ndarray, place: tuple[int, int], count: int, edge: float, bits: np.ndarray) -> None:
    """Mark elements with probability edge / 2^32: where the random word of each is below the edge.

    Parameters
    ----------
    key : uint64[2]
        As for `random_words`.
    place : (int, int)
        Number of the stream, and position in it of the first element's word.
    count : int
        Elements.
    edge : float
        The edge, from 0 to 2^32.
    bits : uint8[:]
        Receives the marks, one bit for each element, the lowest bit of a byte first, and zeros after them.

    """
    stream, start = place
    first = start // GROUP
    groups = (start + count + GROUP - 1) // GROUP - first
    found = np.empty(groups * (GROUP // _BYTE), np.uint8)
    limit = np.uint64(np.ceil(edge))  # words are integers
    _fill_marks(key[0], key[1], np.uint64(stream), np.uint64(first), groups, limit, found)
    take_bits(found, start - first * GROUP, count, bits)


@njit(nogil=True, cache=True)
def mark_random(words: np.ndarray, edge: float, values: np.ndarray, mask: np.ndarray) -> None:
    """Mark each value that is not zero with probability edge / 2^32: where its random word is below the edge.

    Parameters
    ----------
    words : uint32[:]
        A random word for each value.
    edge : float
        The edge, from 0 to 2^32.
    values : float32[:]
        The values.
    mask : uint8[:]
        Receives 1 for each value that is marked, else 0.

    """
    bits = values.view(np.uint32)
    for i in range(len(words)):
        mask[i] = np.uint8((np.float64(words[i]) < edge) & ((bits[i] & np.uint32(0x7FFFFFFF)) != 0))

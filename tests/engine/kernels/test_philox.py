"""The random number generator, against published answers and numpy's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kernels.philox import mark_random, random_marks, random_words
from tests.engine.kernels.cases import examples

WHOLE = 2**32


def block(key: tuple[int, int], counter: tuple[int, int, int, int], rounds: int = 7) -> tuple[int, ...]:
    """Compute a block of Philox4x32 in whole numbers, from the paper."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 // WHOLE ^ c1 ^ k0, p1 % WHOLE, p0 // WHOLE ^ c3 ^ k1, p0 % WHOLE
        k0, k1 = (k0 + 0x9E3779B9) % WHOLE, (k1 + 0xBB67AE85) % WHOLE
    return c0, c1, c2, c3


def words(key: tuple[int, int], stream: int, start: int, count: int) -> list[int]:
    """Run the kernel."""
    out = np.zeros(count, np.uint32)
    random_words(np.array(key, np.uint64), stream, start, out)
    return [int(word) for word in out]


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WHOLE - 1,) * 2, (WHOLE - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_oracle_gives_the_published_answers(
    key: tuple[int, int], counter: tuple[int, int, int, int], expected: tuple[int, ...]
) -> None:
    """The known answers that come with the paper's own implementation, for ten rounds and for seven."""
    assert expected == block(key, counter, 10)
    assert (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48) == block((0, 0), (0, 0, 0, 0))


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(
    key=st.tuples(st.integers(0, WHOLE - 1), st.integers(0, WHOLE - 1)),
    stream=st.integers(0, 2**62),
    start=st.integers(0, 2**60),
    count=st.integers(0, 40),
)
def test_words_are_those_of_their_blocks(key: tuple[int, int], stream: int, start: int, count: int) -> None:
    """Any range of any stream is what the blocks of its counters say, wherever it begins."""
    expected = []
    for place in range(start, start + count):
        first = place // 256 * 64 + place % 64
        counter = (first % WHOLE, first // WHOLE, stream % WHOLE, stream // WHOLE)
        expected.append(block(key, counter)[place // 64 % 4])
    assert expected == words(key, stream, start, count)


def test_long_ranges_are_made_of_short_ones() -> None:
    """A range longer than the kernel's lanes continues where a shorter one ends."""
    whole = words((1, 2), 3, 5, 1000)
    assert whole == [*words((1, 2), 3, 5, 333), *words((1, 2), 3, 338, 667)]


def test_marks_are_words_below_the_edge() -> None:
    """An element is kept if its word is below the edge and it is not zero; edge 0 keeps none, 2^32 all others."""
    given_words = np.array([0, 1, 2, WHOLE - 1], np.uint32)
    values, mask = np.array([1.0, -0.0, -3.0, 4.0], np.float32), np.empty(4, np.uint8)
    for edge, expected in [(0.0, [0, 0, 0, 0]), (2.5, [1, 0, 1, 0]), (float(WHOLE), [1, 0, 1, 1])]:
        mark_random(given_words, edge, values, mask)
        assert expected == mask.tolist()


@settings(derandomize=True, deadline=None, max_examples=examples(60))
@given(start=st.integers(0, 2**40), count=st.integers(0, 700), edge=st.floats(0, WHOLE))
def test_marks_of_a_run_are_those_of_its_words(start: int, count: int, edge: float) -> None:
    """One bit for each word below the edge, wherever the run begins, and zeros after the last."""
    bits = np.full(100, 255, np.uint8)
    random_marks(np.array((1, 2), np.uint64), (3, start), count, edge, bits)
    expected = [int(word < edge) for word in words((1, 2), 3, start, count)] + [0] * (800 - count)
    assert expected == np.unpackbits(bits, bitorder="little").tolist()


@pytest.mark.parametrize(("edge", "expected"), [(0.0, 0), (float(WHOLE), 300)])
def test_marks_reach_from_none_to_all(edge: float, expected: int) -> None:
    """Edge 0 marks none, 2^32 all."""
    bits = np.empty(40, np.uint8)
    random_marks(np.array((1, 2), np.uint64), (3, 5), 300, edge, bits)
    assert expected == int(np.unpackbits(bits).sum())

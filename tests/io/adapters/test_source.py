"""Tensors with an adapter applied: the same bits for any range, and the values of plain numpy."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.adapters import matrices
from dovetail.io.adapters import source as source_module
from dovetail.io.adapters.changes import (
    Hadamard,
    LowRank,
    ReplacedRows,
    Rescaled,
    ScaledVector,
)
from dovetail.io.adapters.experts import Experts
from dovetail.io.adapters.kronecker import Kronecker, Product, Whole
from dovetail.io.adapters.matrices import Matrix
from dovetail.io.adapters.source import ChangedSource, DoraSource
from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.source import Decoding, Source
from tests.adapters import plain_sum
from tests.engine.kernels.cases import examples
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.held import HeldSource
from tests.io.stored import store_mapped, store_zarr, touch

F32 = DTYPES["F32"]


Keep = Callable[[NDArray[Any]], Source]
"""Keeps a tensor somewhere."""


def held(values: NDArray[Any], dtype: DType = F32) -> HeldSource:
    return HeldSource(values.astype(to_numpy(dtype)))


def matrix(values: NDArray[Any], dtype: DType = F32, keep: Keep = HeldSource) -> Matrix:
    rows, columns = values.shape if values.ndim == 2 else (1, values.size)
    return Matrix(keep(values.astype(to_numpy(dtype))), dtype, rows, columns)


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def low_rank(
    rows: int,
    columns: int,
    rank: int,
    *,
    turned: bool,
    scale: float = 0.7,
    dtype: DType = F32,
    keep: Keep = HeldSource,
) -> LowRank:
    left, right = numbers(1, rows, rank), numbers(2, rank, columns)
    both = (left.T, right.T) if turned else (left, right)
    return LowRank(rows, columns, rank, matrix(both[0], dtype, keep), matrix(both[1], dtype, keep), turned, scale)


def sources(
    rows: int, columns: int, rank: int, store: Keep = HeldSource, keep: Keep = HeldSource
) -> dict[str, tuple[Any, NDArray[np.float32]]]:
    """Give one source of each kind, and the values that it must have.

    `store` keeps the model's tensor, `keep` those of the adapters.
    """

    def small(values: NDArray[Any]) -> Matrix:
        return matrix(values, F32, keep)

    weight, left, right = numbers(0, rows, columns), numbers(1, rows, rank), numbers(2, rank, columns)
    base = store(weight)
    total = plain_sum(weight, left, right, 0.7)
    square = total.astype(np.float64) ** 2
    plain = ChangedSource(base, F32, low_rank(rows, columns, rank, turned=False, keep=keep))
    turned = ChangedSource(base, F32, low_rank(rows, columns, rank, turned=True, keep=keep))
    by_row, by_column = numbers(3, rows), numbers(4, columns)
    row_factors = by_row / np.sqrt(square.sum(axis=1)).astype(np.float32)
    column_factors = by_column / np.sqrt(square.sum(axis=0)).astype(np.float32)
    product = low_rank(rows, columns, rank, turned=False, scale=1.0, keep=keep)
    flat = plain_sum(np.zeros_like(weight), left, right, 1.0)
    chosen = tuple(sorted({0, rows // 2, rows - 1}))
    order = tuple(reversed(range(len(chosen))))
    tokens = numbers(5, len(chosen), columns)
    replaced = weight.copy()
    replaced[list(chosen)] = tokens[list(order)]
    bias = ScaledVector(small(flat.reshape(-1)), 0.7)
    singular = numbers(6, rank)
    adaptive = LowRank(rows, columns, rank, small(left), small(right), False, 0.7, small(singular))
    turned_adaptive = LowRank(rows, columns, rank, small(left.T), small(right.T), True, 0.7, small(singular))
    return {
        "lora": (plain, total),
        "transposed lora": (turned, total),
        "dora": (DoraSource(plain, columns, small(by_row), False), row_factors[:, np.newaxis] * total),
        "transposed dora": (DoraSource(turned, columns, small(by_column), True), column_factors * total),
        "loha": (ChangedSource(base, F32, Hadamard(product, product, 0.3)), weight + flat * flat * np.float32(0.3)),
        "bias": (ChangedSource(base, F32, bias), weight + np.float32(0.7) * flat),
        "ia3 outputs": (ChangedSource(base, F32, Rescaled(columns, small(by_row), False)), weight * by_row[:, None]),
        "ia3 inputs": (ChangedSource(base, F32, Rescaled(columns, small(by_column), True)), weight * by_column),
        "adalora": (
            ChangedSource(base, F32, adaptive),
            plain_sum(weight, left, right * singular[:, np.newaxis], 0.7),
        ),
        "transposed adalora": (
            ChangedSource(base, F32, turned_adaptive),
            plain_sum(weight, left * singular, right, 0.7),
        ),
        **kroneckers(base, weight, rank, small),
        **experts(base, weight, rank, small),
        "tokens": (ChangedSource(base, F32, ReplacedRows(columns, chosen, order, small(tokens))), replaced),
    }


def divisor(number: int) -> int:
    """Give the largest divisor that is at most the square root."""
    return max(each for each in range(1, number + 1) if number % each == 0 and each * each <= number)


def plain_product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the product of two matrices, one term after another."""
    return plain_sum(np.zeros((left.shape[0], right.shape[1]), np.float32), left, right, 1.0)


def kroneckers(
    base: Source, weight: NDArray[np.float32], rank: int, small: Callable[[NDArray[Any]], Matrix]
) -> dict[str, tuple[Any, NDArray[np.float32]]]:
    """Give changes by Kronecker products, of matrices and of products, and the values that they must give."""
    rows, columns = weight.shape
    height, width = divisor(rows), divisor(columns)
    deep, wide = rows // height, columns // width
    kernel = divisor(wide)
    outer, inner = numbers(10, height, width), numbers(11, deep, wide)
    outer_left, outer_right = numbers(12, height, rank), numbers(13, rank, width)
    inner_left, inner_right = numbers(14, deep, rank), numbers(15, rank, wide)
    core, narrow = numbers(16, rank, rank * kernel), numbers(17, rank, wide // kernel)
    through = np.zeros((rank, wide // kernel, kernel), np.float32)
    for index in range(rank):
        through += core.reshape(rank, rank, kernel)[:, index, np.newaxis] * narrow[index][:, np.newaxis]

    def made(
        one: Whole | Product, other: Whole | Product, left: NDArray[np.float32], right: NDArray[np.float32]
    ) -> tuple[Any, NDArray[np.float32]]:
        change = Kronecker(columns, one, other, 0.7)
        return ChangedSource(base, F32, change), weight + np.kron(left, right) * np.float32(0.7)

    whole, product = Whole(small(inner)), Product(small(inner_left), small(inner_right))
    cored = Product(small(inner_left.T), small(narrow), small(core))
    outer_product = Product(small(outer_left), small(outer_right))
    return {
        "lokr": made(Whole(small(outer)), product, outer, plain_product(inner_left, inner_right)),
        "lokr of matrices": made(Whole(small(outer)), whole, outer, inner),
        "lokr of products": made(outer_product, whole, plain_product(outer_left, outer_right), inner),
        "lokr with a core": made(
            Whole(small(outer)), cored, outer, plain_product(inner_left, through.reshape(rank, -1))
        ),
    }


def experts(
    base: Source, weight: NDArray[np.float32], rank: int, small: Callable[[NDArray[Any]], Matrix]
) -> dict[str, tuple[Any, NDArray[np.float32]]]:
    """Give the change of fused experts stored either way, and that of some rows of one expert."""
    rows, columns = weight.shape
    count = divisor(rows)
    deep = rows // count
    down, up = numbers(20, count * rank, columns), numbers(21, deep, rank * count)
    other_down, other_up = numbers(22, count * rank, deep), numbers(23, columns, rank * count)
    plain, turned = [], []
    for expert, matrix in enumerate(weight.reshape(count, deep, columns)):
        part = slice(expert * rank, (expert + 1) * rank)
        plain.append(plain_sum(matrix, up[:, expert::count], down[part], 0.7))
        turned.append(plain_sum(matrix, other_down[part].T, other_up[:, expert::count].T, 0.7))
    long = numbers(24, rows + 3, 2 * rank)
    single = plain_sum(weight, long[2 : rows + 2, 1::2], numbers(25, 2 * rank, columns)[rank:], 0.7)

    def made(change: Experts) -> Any:
        return ChangedSource(base, F32, change)

    return {
        "experts": (made(Experts(deep, columns, rank, count, small(down), small(up), False, 0.7)), np.vstack(plain)),
        "transposed experts": (
            made(Experts(deep, columns, rank, count, small(other_down), small(other_up), True, 0.7)),
            np.vstack(turned),
        ),
        "one expert": (
            made(
                Experts(
                    rows,
                    columns,
                    rank,
                    2,
                    small(numbers(25, 2 * rank, columns)),
                    small(long),
                    False,
                    0.7,
                    expert=1,
                    offset=2,
                )
            ),
            single,
        ),
    }


KINDS = tuple(sources(1, 1, 1))


def read(source: Any, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
    values = source.read(start, source.length if stop is None else stop)
    assert not values.flags.writeable
    assert np.uint8 == values.dtype
    return values.view(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (3, 1200, 4), (700, 3, 2)])
def test_values(kind: str, shape: tuple[int, int, int]) -> None:
    """What is computed is what the formula says; where only norms are in between, to the last bit but one."""
    source, expected = sources(*shape)[kind]
    np.testing.assert_allclose(read(source).reshape(expected.shape), expected, rtol=3e-7 if "dora" in kind else 0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(15))
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 6)),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    step=st.sampled_from([1, 7, 1 << 18]),
    tile=st.sampled_from([1, 5, 512]),
)
def test_any_cut_gives_the_same_bits(
    kind: str, shape: tuple[int, int, int], cuts: list[float], step: int, tile: int
) -> None:
    """However a tensor is cut, into whatever steps it is computed, and in another process, its bits are the same."""
    source, _ = sources(*shape)[kind]
    whole = read(source)
    ends = sorted({0, source.length, *(int(cut * source.length) for cut in cuts)})
    source_module._factors.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_STEP_ELEMENTS", step)
        patch.setattr(matrices, "TILE_COLUMNS", tile)
        patch.setattr(matrices, "_LEFT_BYTES", tile)
        other = pickle.loads(pickle.dumps(source))
        parts = [read(other, low, high) for low, high in itertools.pairwise(ends)]
        assert whole.tobytes() == b"".join(part.tobytes() for part in parts)
        for low, high in itertools.pairwise(ends):
            other.prefetch(low, high)
            other.populate(low, high)
            other.release(low, high)
    assert read(source, 0, 0).size == 0


@pytest.mark.parametrize("name", ["F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"])
def test_dtypes(name: str) -> None:
    """Model and adapter may be stored in any floating-point dtype; all are decoded before anything is computed."""
    dtype = DTYPES[name]
    weight = numbers(0, 6, 10)
    source = ChangedSource(held(weight, dtype), dtype, low_rank(6, 10, 3, turned=True, dtype=dtype))
    stored = to_numpy(dtype)

    def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.astype(stored).astype(np.float32)

    expected = plain_sum(rounded(weight), rounded(numbers(1, 6, 3)), rounded(numbers(2, 3, 10)), 0.7)
    assert expected.tobytes() == read(source).tobytes()


def test_every_byte_of_float8_and_bfloat16() -> None:
    """Decoding is exact for every value, NaN and infinity included."""
    for name, kind in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        raw = np.arange(256, dtype=np.uint8)
        source = ChangedSource(HeldSource(raw), DTYPES[name], Rescaled(1, matrix(np.ones(256)), False))
        np.testing.assert_array_equal(raw.view(kind).astype(np.float32), read(source))
    raw16 = np.arange(65536, dtype=np.uint16)
    ones = Rescaled(1, matrix(np.ones(65536)), False)
    source = ChangedSource(HeldSource(raw16), DTYPES["BF16"], ones)
    np.testing.assert_array_equal(raw16.view(ml_dtypes.bfloat16).astype(np.float32), read(source))


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_is_bounded(kind: str) -> None:
    """What a read needs beside its result does not grow with the tensor, but for the adapter's own size."""
    source, _ = sources(700, 300, 2)[kind]
    adapter = 4 * 2 * (700 + 300) * 3 + 4 * 700 * 300 * (kind == "bias")
    assert source.scratch_bytes < 16 * 2**20 + 4 * adapter


def test_a_line_of_zeros() -> None:
    """DoRA divides by a norm of zero as peft does: what comes of it is not finite, and is found later."""
    source = DoraSource(
        ChangedSource(held(np.zeros((2, 3))), F32, Rescaled(3, matrix(np.ones(2)), False)), 3, matrix(np.ones(2)), False
    )
    assert np.isnan(read(source)).all()


class TestAdapters(SourceTests):
    """Every kind of adapter on a mapped tensor, LoRA and DoRA on one in chunks too, LoRA on one of float8."""

    kinds = (*KINDS, "lora on chunks", "dora on chunks", "lora on float8")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        counter = itertools.count()

        def keep(values: NDArray[Any]) -> Source:
            return store_mapped(folder / str(next(counter)), values)

        def store(weight: NDArray[Any]) -> Source:
            if kind.endswith("chunks"):
                return store_zarr(folder / "model", weight, (len(weight) // 3, weight.shape[1]))
            return keep(weight)

        if kind == "lora on float8":
            weight = numbers(0, *shape).astype(ml_dtypes.float8_e4m3fn)
            change = low_rank(*shape, 3, turned=False, keep=keep)
            expected = plain_sum(weight.astype(np.float32), numbers(1, shape[0], 3), numbers(2, 3, shape[1]), 0.7)
            source: Source = ChangedSource(store(weight), DTYPES["F8_E4M3"], change)
        else:
            source, expected = sources(*shape, 3, store, keep)[kind.partition(" on ")[0]]
        if "dora" in kind:  # norms are summed in another order: `test_values` compares with tolerance
            expected = read(source).copy()
        yield Stored(source, expected.tobytes(), lambda: touch(folder))


def test_scratch_of_the_model_is_handed_on() -> None:
    """Whatever an adapter takes, reading the model's tensor takes its own besides, and so it does behind DoRA."""
    heavy = HeldSource(numbers(0, 6, 10), scratch_bytes=107_000_000)
    for change in (low_rank(6, 10, 3, turned=False), Rescaled(10, matrix(np.ones(6)), False)):
        for base, more in ((held(numbers(0, 6, 10)), 0), (heavy, 107_000_000)):
            changed = ChangedSource(base, F32, change)
            assert changed.scratch_bytes - more == ChangedSource(held(numbers(0, 6, 10)), F32, change).scratch_bytes
            dora = DoraSource(changed, 10, matrix(np.ones(6)), False)
            assert dora.scratch_bytes > changed.scratch_bytes >= more + 240


def test_decoding_is_that_of_the_model() -> None:
    """What reading the model's tensor decodes is handed on."""
    chunks = HeldSource(numbers(0, 6, 10), decoded=Decoding(30, 40))
    changed = ChangedSource(chunks, F32, Rescaled(10, matrix(np.ones(6)), False))
    assert Decoding(30, 40) == changed.decoding(0, 3)
    assert Decoding(30, 40) == DoraSource(changed, 10, matrix(np.ones(6)), False).decoding(0, 3)

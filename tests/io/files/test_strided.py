"""Tensors with elements out of order in their file: every range reads as numpy orders it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.io.errors import ChangedFileError, MissingFileError
from dovetail.io.files import stretches
from dovetail.io.files.strided import StridedSource
from tests.io.contracts.sources import SourceTests, Stored
from tests.io.stored import random_bytes, store_transposed, touch

VALUES = np.arange(3 * 5 * 7 * 4, dtype=np.uint16).reshape(3, 5, 7, 4)

VIEWS: dict[str, Callable[[NDArray[np.uint16]], NDArray[np.uint16]]] = {
    "transposed": lambda values: values.reshape(15, 28).T,
    "permuted": lambda values: values.transpose(2, 0, 3, 1),
    "sliced": lambda values: values[1:, ::2, 3:6, 1:],
    "every third": lambda values: values.reshape(-1)[2::3],
    "column": lambda values: values.reshape(15, 28)[:, 9],
    "expanded": lambda values: np.broadcast_to(values[:, :, :1, :1], (3, 5, 7, 4)),
    "scalar": lambda values: values[1, 2, 3, 3],
    "in order": lambda values: values,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the values behind some other bytes."""
    place = tmp_path_factory.mktemp("strided") / "file"
    place.write_bytes(bytes(6) + VALUES.tobytes())
    return place


def source_of(path: Path, view: NDArray[np.uint16]) -> StridedSource:
    """Make the source of a view of `VALUES` in the file."""
    first = np.asarray(view).__array_interface__["data"][0] - VALUES.__array_interface__["data"][0]
    status = os.stat(path)
    strides = tuple(step // 2 for step in view.strides)
    return StridedSource(str(path), 6 + first, view.shape, strides, 2, status.st_size, status.st_mtime_ns)


@given(st.sampled_from(sorted(VIEWS)), st.integers(0, 420), st.integers(0, 420), st.sampled_from([8, 64, 2**20]))
def test_every_range_is_right(path: Path, name: str, first: int, second: int, span_bytes: int) -> None:
    """However large the stretches are that are read, a range has its elements in the order of the tensor."""
    view = VIEWS[name](VALUES)
    if name == "scalar":  # numpy gives a copy; the place is known
        view = np.lib.stride_tricks.as_strided(VALUES[1:, 2:, 3:, 3:], (), ())
    source = source_of(path, view)
    start, stop = sorted((min(first, source.length), min(second, source.length)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "SPAN_BYTES", span_bytes)
        patch.setattr(stretches, "_SHORT_SPAN_BYTES", min(span_bytes, 16))
        got = source.read(start, stop)
    assert view.reshape(-1)[start:stop].tobytes() == got.tobytes()
    assert not got.flags.writeable


def test_changed_files(tmp_path: Path) -> None:
    """A file that has changed, or is gone, is an error and gives no other numbers."""
    path = tmp_path / "file"
    path.write_bytes(bytes(6) + VALUES.tobytes())
    source = source_of(path, VIEWS["transposed"](VALUES))
    os.truncate(path, 500)
    with pytest.raises(ChangedFileError, match="changed since the checkpoint was opened"):
        source.read(0, 10)
    path.unlink()
    with pytest.raises(MissingFileError, match="cannot open"):
        source.read(0, 10)


class TestStridedSource(SourceTests):
    """Matrices that are stored transposed, or with gaps between their columns, or as one row."""

    kinds = ("transposed", "columns", "expanded")

    @contextlib.contextmanager
    def make(self, folder: Path, kind: str, shape: tuple[int, int]) -> Iterator[Stored]:
        path, (rows, columns) = folder / "data", shape
        values = random_bytes(shape, "<u2")
        source = store_transposed(path, values)
        if kind == "columns":
            wide = random_bytes((rows, 3 * columns), "<u2")
            path.write_bytes(wide.tobytes())
            values, status = wide[:, ::3], path.stat()
            source = StridedSource(str(path), 0, shape, (3 * columns, 3), 2, status.st_size, status.st_mtime_ns)
        elif kind == "expanded":
            path.write_bytes(values[0].tobytes())
            values, status = np.broadcast_to(values[0], shape), path.stat()
            source = StridedSource(str(path), 0, shape, (0, 1), 2, status.st_size, status.st_mtime_ns)
        yield Stored(source, values.tobytes(), lambda: touch(path))


def test_scratch_is_the_stretch_that_is_held() -> None:
    """The scratch memory is the whole file part if that is small, and else two stretches."""
    known = (2, 10**9, 7)
    assert 2 * (99 + 100 * 9) + 2 == StridedSource("a", 0, (100, 10), (1, 100), *known).scratch_bytes
    assert 2 * stretches.SPAN_BYTES == StridedSource("a", 0, (10**4, 10**4), (1, 10**4), *known).scratch_bytes
    assert 2 == StridedSource("a", 0, (), (), *known).scratch_bytes
    assert 0 == StridedSource("a", 0, (0, 3), (3, 1), *known).scratch_bytes


@given(
    st.data(), st.sampled_from(sorted(VIEWS.keys() - {"scalar"})), st.lists(st.integers(1, 6), min_size=1, max_size=3)
)
def test_a_view_of_a_view(path: Path, data: st.DataObject, name: str, shape: list[int]) -> None:
    """Elements of a tensor at regular distances are those that NumPy takes; None if they are at no such in the file."""
    held = VIEWS[name](VALUES)
    source = source_of(path, held)
    flat = held.reshape(-1)
    strides = data.draw(st.lists(st.integers(0, flat.size // 2), min_size=len(shape), max_size=len(shape)))
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    assume(reach < flat.size)
    first = data.draw(st.integers(0, flat.size - 1 - reach))
    places = first + sum(
        np.arange(size).reshape(-1, *[1] * (len(shape) - 1 - axis)) * stride
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
    )
    found = source.view(first, tuple(shape), tuple(strides))
    if found is not None:
        assert np.broadcast_to(flat[places], shape).tobytes() == found.read(0, found.length).tobytes()
    else:
        assert max(shape) > 1  # a single element, wherever it lies, is a view


def test_a_transposed_tensor_transposed_again(tmp_path: Path) -> None:
    """What is stored across is read along the file if it is asked for across, and not element by element."""
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)
    found = store_transposed(tmp_path / "file", values).view(0, (4, 3), (1, 4))
    assert found is not None
    assert ((4, 3), (3, 1)) == (found.shape, found.strides)
    assert values.T.tobytes() == found.read(0, 12).tobytes()

"""Arrays have the types that numba gives them, whether numpy's masked arrays are there or not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numba import typeof
from numba.core.errors import NumbaError

from dovetail.engine.kernels.array_types import type_of_array


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give an array that may not be written."""
    array.flags.writeable = False
    return array


ARRAYS = {
    "float": np.zeros(3, np.float32),
    "bytes": read_only(np.zeros(3, np.uint8)),
    "rows": np.zeros((2, 3)),
    "columns": np.zeros((2, 3), order="F"),
    "strided": read_only(np.zeros((4, 4), np.int16)[:, ::2]),
    "scalar": np.zeros((), np.uint64),
    "record": np.zeros(2, [("a", "i4"), ("b", "f8")]),
    "dates": np.zeros(2, "M8[s]"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_types_are_those_of_numba(array: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An array has one type, found with and without masked arrays."""
    assert isinstance(np.ma.zeros(1), np.ma.MaskedArray)  # which imports them
    expected = typeof(array)
    monkeypatch.delitem(sys.modules, "numpy.ma")
    actual = type_of_array(array, None)
    assert (expected, expected.mutable, expected.aligned) == (actual, actual.mutable, actual.aligned)
    assert expected == typeof(array)


def test_masked_arrays_are_refused() -> None:
    """As numba refuses them."""
    with pytest.raises(NumbaError, match="MaskedArray"):
        typeof(np.ma.zeros(3))


def test_dtypes_without_a_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In numba's words."""
    monkeypatch.delitem(sys.modules, "numpy.ma", raising=False)
    with pytest.raises((NumbaError, ValueError), match=r"Unsupported array dtype|cannot determine"):
        typeof(np.zeros(2, "V7"))

"""The table of dtypes and the spellings that users may use."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES, UNSUPPORTED_DTYPES, DType, parse_dtype, to_numpy
from dovetail.io.errors import DovetailError, DTypeNameError


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_numpy_dtype_has_the_size_and_name(dtype: DType) -> None:
    """The numpy dtype of each row is of the row's size, and named as in Zarr metadata."""
    assert dtype.itemsize == to_numpy(dtype).itemsize
    assert dtype.zarr_name == to_numpy(dtype).name


def test_mergeable_are_the_floating_types() -> None:
    """Exactly the floating-point types are merged; others are copied."""
    assert {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"} == {d.name for d in DTYPES.values() if d.mergeable}


def test_torch_names_exist() -> None:
    """Each dtype's torch name is a torch dtype of the same size, and safetensors maps the two alike."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import _TYPES

    for dtype in DTYPES.values():
        assert _TYPES[dtype.name] is getattr(torch, dtype.torch_name)
        assert dtype.itemsize == getattr(torch, dtype.torch_name).itemsize


def test_table_is_complete() -> None:
    """Every dtype that the official library knows is read, known for codes and scales, or refused by name."""
    from safetensors.torch import _TYPES

    tables = (DTYPES, QUANTISED_DTYPES, UNSUPPORTED_DTYPES)
    assert set(_TYPES) <= set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_dtypes_of_codes_are_neither_merged_nor_named_by_users() -> None:
    """A dtype of codes and scales is never merged, and cannot be asked for."""
    for dtype in QUANTISED_DTYPES.values():
        assert not dtype.mergeable
        with pytest.raises(DTypeNameError, match=f"unknown dtype '{dtype.name}'"):
            parse_dtype(dtype.name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bfloat16", "BF16"),
        ("bf16", "BF16"),
        ("BF16", "BF16"),
        ("torch.bfloat16", "BF16"),
        (" float16 ", "F16"),
        ("fp16", "F16"),
        ("half", "F16"),
        ("float32", "F32"),
        ("float", "F32"),
        ("fp32", "F32"),
        ("double", "F64"),
        ("float8_e4m3fn", "F8_E4M3"),
        ("F8_E5M2", "F8_E5M2"),
        ("int64", "I64"),
    ],
)
def test_usual_spellings(text: str, name: str) -> None:
    """What people write in recipes and configurations is understood in any case."""
    assert DTYPES[name] is parse_dtype(text)


def test_unknown_spelling_suggests_the_nearest() -> None:
    """A wrong name is an error that lists the names and suggests the nearest; it is an error of usage."""
    with pytest.raises(DTypeNameError) as caught:
        parse_dtype("bfloat61")
    assert (
        "unknown dtype 'bfloat61'; expected one of float16, bfloat16, float32, float64, float8_e4m3fn, float8_e5m2; "
        "did you mean 'bfloat16'?"
    ) == str(caught.value)
    assert 2 == caught.value.exit_code
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, DovetailError)


def test_numpy_dtypes_are_little_endian() -> None:
    """Stored bytes are little endian on any machine."""
    assert 1.0 == np.frombuffer(b"\x80\x3f", to_numpy(DTYPES["BF16"]))[0]
    assert 258 == np.frombuffer(b"\x02\x01", to_numpy(DTYPES["I16"]))[0]

"""The table of dtypes, and the names that users may write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.kernels import convert
from dovetail.io.dtypes import (
    DTYPES,
    MERGEABLE,
    QUANTISED_DTYPES,
    UNSUPPORTED_DTYPES,
    DType,
    parse_dtype,
    to_numpy,
)
from dovetail.io.errors import DovetailError, DTypeNameError
from tests.packaging import copy_package


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_numpy_dtype_has_the_size_and_name(dtype: DType) -> None:
    """The numpy dtype of each row is of the row's size, and named as in Zarr metadata."""
    assert dtype.itemsize == to_numpy(dtype).itemsize
    assert dtype.zarr_name == to_numpy(dtype).name


def test_mergeable_are_the_floating_types() -> None:
    """Exactly the floating-point types are merged; others are copied."""
    assert {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"} == {d.name for d in DTYPES.values() if d.mergeable}


def test_codes_are_those_of_the_kernels() -> None:
    """The kernels, which import none of our modules, have a constant for each mergeable dtype's name, code and size."""
    assert len(convert.ITEMSIZES) == len(MERGEABLE)
    for code, dtype in enumerate(MERGEABLE):
        assert code == dtype.kernel_code == getattr(convert, dtype.name)
        assert convert.ITEMSIZES[code] == dtype.itemsize


@pytest.mark.parametrize("dtype", MERGEABLE, ids=str)
def test_kernels_decode_what_numpy_reads(dtype: DType) -> None:
    """A kernel decodes a dtype's bytes, by its code, to the numbers that numpy reads from them."""
    values = np.array([0.0, 1.5, -2.0, 448.0, -0.0078125], np.float32).astype(to_numpy(dtype))
    found = np.empty(values.size, np.float32)
    convert.decode(values.view(np.uint8), dtype.kernel_code, 0, values.size, found)
    assert values.astype(np.float32).tolist() == found.tolist()


def test_integers() -> None:
    """Integers are distinguished from all other dtypes, booleans included."""
    assert {"U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"} == {d.name for d in DTYPES.values() if d.is_integer}


ONE_ROW = """
import json, shutil, sys
from pathlib import Path
import numpy as np
from dovetail.engine import PlanOptions, compare, convert
from dovetail.engine.actions.verify import verify
from dovetail.io import open_checkpoint, read_checkpoint
from dovetail.io.dtypes import DTYPES
from dovetail.io.formats.header import build_header
from dovetail.io.output import ZarrFormat
from dovetail.io.zarr import dtypes

home = Path(sys.argv[1])
(home / "a").mkdir()
raw = np.arange(256, dtype=np.uint8)
header = build_header([("scales", DTYPES["F8_E4M3B11"], (16, 16))])
(home / "a" / "model.safetensors").write_bytes(header + raw.tobytes())
convert(home / "a", home / "b", PlanOptions(ZarrFormat()))
convert(home / "b", home / "c")
for folder in ("b", "c"):
    assert not verify(home / folder).damage
    assert raw.tolist() == read_checkpoint(home / folder).tensors["scales"].source.read(0, 256).tolist()
assert raw.tolist() == open_checkpoint(home / "c")["scales"][:].view(np.uint8).ravel().tolist()
(difference,) = compare(home / "a", home / "c").differences
assert difference.same_bits
changed = raw.copy()
changed[5] = 9
(home / "c" / "model.safetensors").write_bytes(header + changed.tobytes())
(difference,) = compare(home / "a", home / "c").differences
assert (1, 4) == (difference.changed, difference.max_ulp)
"""


def test_a_storage_only_dtype_is_one_row(tmp_path: Path) -> None:
    """With a row for scales of one byte in the table, and no other change, checkpoints of them are read, converted to
    Zarr and back, verified, opened by zarr and compared.
    """
    copy_package(tmp_path / "dovetail")
    table = tmp_path / "dovetail" / "io" / "dtypes.py"
    row = '    DType("F8_E4M3B11", 1, "float8_e4m3b11fnuz", "float8_e4m3b11fnuz"),\n'
    text = table.read_text()
    assert 1 == text.count("_TABLE: Final = (\n")
    table.write_text(text.replace("_TABLE: Final = (\n", f"_TABLE: Final = (\n{row}"))
    done = subprocess.run(
        [sys.executable, "-c", ONE_ROW, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)


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
    """The names that people write in recipes and configurations are understood, in any case."""
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

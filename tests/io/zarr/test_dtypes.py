"""bfloat16 and float8 in Zarr arrays: bits survive every store and codec, and fill values every spelling."""

from __future__ import annotations

import gzip
import json
import pickle
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, ZstdCodec
from zarr.core.dtype import DataTypeValidationError, data_type_registry, parse_dtype
from zarr.storage import LocalStore, MemoryStore

from dovetail.io.zarr.dtypes import DATA_TYPES, BFloat16

CLASSES = tuple(DATA_TYPES.values())
Float8E4M3FN, Float8E5M2 = DATA_TYPES["float8_e4m3fn"], DATA_TYPES["float8_e5m2"]
NAN = float("nan")


def test_every_dtype_of_ml_dtypes_has_a_type() -> None:
    """The types are those of the table of dtypes that numpy lacks; pickle brings each back as the same class."""
    assert {"bfloat16", "float8_e4m3fn", "float8_e5m2"} == set(DATA_TYPES)
    for data_type in CLASSES:
        assert data_type is type(pickle.loads(pickle.dumps(data_type())))


def every_value(data_type: Any) -> np.ndarray:
    """Make an array of every bit pattern of a type."""
    native = data_type().to_native_dtype()
    return np.arange(256**native.itemsize, dtype=f"<u{native.itemsize}").view(native)


@pytest.mark.parametrize("data_type", CLASSES)
@pytest.mark.parametrize("compressors", [None, ZstdCodec(level=1)], ids=["raw", "zstd"])
@pytest.mark.parametrize("local", [False, True], ids=["memory", "local"])
@pytest.mark.parametrize("fill_value", [0, NAN, 1.5, -0.0, None])
def test_every_bit_pattern_round_trips(
    data_type: Any, compressors: Any, local: bool, fill_value: Any, tmp_path: Path
) -> None:
    """Arrays hold every bit pattern, NaN payloads included, in any store, compressed or not, in uneven chunks."""
    values = every_value(data_type)
    store = LocalStore(tmp_path) if local else MemoryStore()
    written = zarr.create_array(
        store,
        shape=values.shape,
        chunks=(values.size // 3 + 1,),
        dtype=values.dtype,
        compressors=compressors,
        fill_value=fill_value,
        config={"write_empty_chunks": True},
    )
    written[:] = values
    read = zarr.open_array(store, mode="r")
    assert values.dtype == read.dtype
    assert data_type._zarr_v3_name == read.metadata.to_dict()["data_type"]
    np.testing.assert_array_equal(values.view(np.uint8), np.asarray(read[:]).view(np.uint8))


@pytest.mark.parametrize("data_type", CLASSES)
def test_missing_chunks_read_as_the_fill_value(data_type: Any) -> None:
    """A NaN fill value survives the JSON and fills what was never written."""
    array = zarr.create_array(MemoryStore(), shape=(4,), chunks=(2,), dtype=data_type(), fill_value=NAN)
    array[2:] = np.array([1, 2], array.dtype)
    read = zarr.open_array(array.store, mode="r")
    assert "NaN" == read.metadata.to_dict()["fill_value"]
    assert [True, True, False, False] == np.isnan(read[:].astype(np.float32)).tolist()


def test_big_endian_arrays_are_read() -> None:
    """bfloat16 chunks stored big endian are read by value."""
    array = zarr.create_array(
        MemoryStore(), shape=(2,), chunks=(2,), dtype="bfloat16", serializer=BytesCodec(endian="big"), compressors=None
    )
    array[:] = np.array([1, 3], ml_dtypes.bfloat16)
    assert b"\x3f\x80\x40\x40" == array.store._store_dict["c/0"].to_bytes()
    assert [1.0, 3.0] == zarr.open_array(array.store)[:].tolist()


@pytest.mark.parametrize(
    ("data_type", "json_value", "bits"),
    [
        (BFloat16, 1.5, 0x3FC0),
        (BFloat16, -0.0, 0x8000),
        (BFloat16, "NaN", 0x7FC0),
        (BFloat16, "0x7fc1", 0x7FC1),
        (BFloat16, "Infinity", 0x7F80),
        (BFloat16, "-Infinity", 0xFF80),
        (Float8E4M3FN, "NaN", 0x7F),
        (Float8E4M3FN, "0xff", 0xFF),
        (Float8E4M3FN, 448.0, 0x7E),
        (Float8E5M2, "NaN", 0x7E),
        (Float8E5M2, "0x7f", 0x7F),
        (Float8E5M2, "Infinity", 0x7C),
    ],
)
def test_fill_values_round_trip(data_type: Any, json_value: Any, bits: int) -> None:
    """Each spelling of a fill value means the bits that the registry says, and is written back the same."""
    scalar = data_type().from_json_scalar(json_value, zarr_format=3)
    assert bits == int.from_bytes(scalar.tobytes(), "little")
    assert json.dumps(json_value) == json.dumps(data_type().to_json_scalar(scalar, zarr_format=3))


def test_hexadecimal_fill_values_become_their_usual_spelling() -> None:
    """Bits that have a name or a number are written as that."""
    assert "NaN" == BFloat16().to_json_scalar(BFloat16().from_json_scalar("0x7fc0", zarr_format=3), zarr_format=3)
    assert 1.0 == BFloat16().to_json_scalar(BFloat16().from_json_scalar("0x3f80", zarr_format=3), zarr_format=3)
    assert "NaN" == BFloat16().to_json_scalar(BFloat16().from_json_scalar("0x7fc1", zarr_format=3), zarr_format=2)


@pytest.mark.parametrize("value", ["nan", "0x7f", "0x7fc00000", "1.5", True, None, [1], {}])
def test_wrong_fill_values_are_refused(value: Any) -> None:
    """A fill value of another form is an error, not a guess."""
    with pytest.raises(TypeError, match="Invalid fill value for bfloat16"):
        BFloat16().from_json_scalar(value, zarr_format=3)


def test_float8_e4m3fn_has_no_infinity() -> None:
    """An infinite fill value, which the type cannot hold, is refused rather than turned into NaN."""
    with pytest.raises(ValueError, match="The type has no infinity"):
        Float8E4M3FN().from_json_scalar("Infinity", zarr_format=3)
    with pytest.raises(TypeError, match="Cannot convert"):
        Float8E4M3FN().cast_scalar("x")


def test_float8_e4m3fn_is_not_the_registrys_float8_e4m3() -> None:
    """The registered float8_e4m3 has infinities: 0x78 is 256 in ours and infinity there, so names must differ."""
    bits = np.array([0x78], np.uint8)
    assert 256.0 == float(bits.view(ml_dtypes.float8_e4m3fn)[0])
    assert np.isinf(float(bits.view(ml_dtypes.float8_e4m3)[0]))
    assert "float8_e4m3fn" == Float8E4M3FN._zarr_v3_name


@pytest.mark.parametrize("data_type", CLASSES)
def test_both_json_forms_are_read(data_type: Any) -> None:
    """The registry's schema allows a name and an object with an empty configuration; nothing else is taken."""
    name = data_type._zarr_v3_name
    for form in (name, {"name": name}, {"name": name, "configuration": {}}):
        assert data_type() == data_type.from_json(form, zarr_format=3)
    for form in (name.upper(), {"name": name, "configuration": {"a": 1}}, {"name": name, "x": {}}, 1, None):
        with pytest.raises(DataTypeValidationError):
            data_type.from_json(form, zarr_format=3)


@pytest.mark.parametrize("data_type", CLASSES)
def test_types_are_found_by_name_and_by_dtype(data_type: Any) -> None:
    """zarr finds each type by its name, by its numpy dtype, and by the entry points of the distribution."""
    name = data_type._zarr_v3_name
    assert data_type() == parse_dtype(name, zarr_format=3)
    assert data_type() == parse_dtype(data_type().to_native_dtype(), zarr_format=3)
    assert data_type is data_type_registry.get(name)
    assert data_type is entry_points(group="zarr.data_type")[name].load()


def test_other_dtypes_are_not_taken() -> None:
    """A type never claims the numpy dtype of another."""
    for native in (np.dtype("V2"), np.dtype(np.float16), np.dtype(ml_dtypes.float8_e4m3)):
        for data_type in CLASSES:
            with pytest.raises(DataTypeValidationError):
                data_type.from_native_dtype(native)


def test_version_2_arrays_are_read(tmp_path: Path) -> None:
    """A Zarr v2 array as T5X writes it ("dtype": "bfloat16", gzip, null fill value) is read bit for bit."""
    values = every_value(BFloat16)[:600].reshape(20, 30)
    document = {
        "zarr_format": 2,
        "shape": [20, 30],
        "chunks": [20, 15],
        "dtype": "bfloat16",
        "compressor": {"id": "gzip", "level": 1},
        "fill_value": None,
        "filters": None,
        "order": "C",
        "dimension_separator": ".",
    }
    (tmp_path / ".zarray").write_text(json.dumps(document))
    for column in (0, 1):
        chunk = np.ascontiguousarray(values[:, 15 * column : 15 * column + 15])
        (tmp_path / f"0.{column}").write_bytes(gzip.compress(chunk.tobytes()))
    read = zarr.open_array(tmp_path, mode="r")
    assert ml_dtypes.bfloat16 == read.dtype
    np.testing.assert_array_equal(values.view(np.uint16), np.asarray(read[:]).view(np.uint16))
    assert {"name": "bfloat16", "object_codec_id": None} == BFloat16().to_json(2)


def test_version_2_cannot_say_big_endian() -> None:
    """Metadata that would be read as little endian is not written for a big-endian type."""
    with pytest.raises(ValueError, match="Expected little"):
        BFloat16(endianness="big").to_json(2)

"""Headers: every defect is named, valid headers are read, and the official library reads ours."""

from __future__ import annotations

import gc
import json
import math
import os
from pathlib import Path

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import CheckpointError, HeaderError, MissingFileError
from dovetail.io.formats.header import MAX_HEADER_BYTES, build_header, parse_header, read_header
from tests.attacks.headers import HEADER_ATTACKS, HeaderAttack, file_of, tensor
from tests.engine.kernels.cases import examples
from tests.io.samples import every_kind, read_officially, write_file
from tests.pace import within

GOLDEN = (
    b"\x90\x00\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},'
    b'"a":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}     '
)
"""A header byte for byte, of a file whose data follows in the order b, a."""


@pytest.mark.parametrize("attack", HEADER_ATTACKS, ids=lambda attack: attack.id)
def test_attacks_are_refused(attack: HeaderAttack, tmp_path: Path) -> None:
    """Each defect raises its error, with a text that names the file, before any tensor data is read."""
    path = tmp_path / "attack.safetensors"
    path.write_bytes(attack.content)
    with pytest.raises(attack.error) as caught:
        read_header(path)
    assert attack.error is type(caught.value)
    assert attack.text.replace("{file}", str(path)) in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700


def test_golden_header_is_read() -> None:
    """A header given byte for byte is read to the tensors it describes, in the order of their data."""
    header = parse_header(GOLDEN, len(GOLDEN) + 5, "golden")
    assert {"format": "pt"} == header.metadata
    assert 152 == header.data_start_bytes
    assert GOLDEN == header.raw
    found = [(e.name, e.dtype.name, e.shape, e.begin_bytes, e.end_bytes) for e in header.entries]
    assert [("b", "BF16", (2, 1), 0, 4), ("a", "U8", (), 4, 5)] == found


def test_golden_header_is_built() -> None:
    """Building gives the same bytes: metadata first, order kept, no blanks, padded with spaces to 8 bytes."""
    assert GOLDEN == build_header([("b", DTYPES["BF16"], (2, 1)), ("a", DTYPES["U8"], ())])


def test_files_of_the_official_library_are_read(tmp_path: Path) -> None:
    """Every dtype and shape that the official library writes is read as it was."""
    tensors = every_kind()
    path = write_file(tmp_path / "model.safetensors", tensors, {"format": "pt", "note": "é"})
    header, size_bytes, mtime_ns = read_header(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size_bytes, mtime_ns)
    assert {"format": "pt", "note": "é"} == header.metadata
    assert {(name, array.shape) for name, array in tensors.items()} == {
        (entry.name, entry.shape) for entry in header.entries
    }
    assert all(entry.name.split(".")[0] == entry.dtype.name for entry in header.entries)


def test_data_order_need_not_be_header_order() -> None:
    """The JSON may list tensors in any order; entries come in the order of their data."""
    raw = file_of({"late": tensor(4, 8, (1,)), "none": tensor(4, 4, (0,)), "early": tensor(0, 4, (1,))}, bytes(8))
    assert ["early", "none", "late"] == [entry.name for entry in parse_header(raw, len(raw), "x").entries]


def test_unusual_names_are_kept() -> None:
    """Names in other scripts, and with spaces, dots or emoji, are kept as they are."""
    names = ["層.0.重み", "a b", "x..y", ".hidden", "🪵", "zarr.json", "non\u00a0breaking", "__x__"]
    raw = build_header([(name, DTYPES["U8"], (0,)) for name in names])
    assert sorted(names) == sorted(entry.name for entry in parse_header(raw, len(raw), "x").entries)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is reported as missing, and not as a bad header."""
    with pytest.raises(MissingFileError, match=r"cannot open .*nothing.safetensors \(No such file"):
        read_header(tmp_path / "nothing.safetensors")


def test_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe where a file should be is refused at once."""
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(HeaderError, match="is not a regular file"):
        read_header(tmp_path / "model.safetensors")


def test_two_tensors_of_one_name_are_not_built() -> None:
    """A header with the same name twice is refused, because one tensor would be lost."""
    with pytest.raises(HeaderError, match="two tensors are called 'w'"):
        build_header([("w", DTYPES["F32"], (1,)), ("w", DTYPES["F32"], (1,))])


def test_header_beyond_the_limit_is_not_built() -> None:
    """A header that no reader would accept is not built, and the error says what to do."""
    name = "x" * (MAX_HEADER_BYTES // 2)
    with pytest.raises(HeaderError, match="use a smaller shard size"):
        build_header([(name + str(number), DTYPES["F32"], (1,)) for number in range(2)])


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda name: name.strip(".") and name != "__metadata__")
SPECS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(list(DTYPES.values())), st.lists(st.integers(0, 4), max_size=4).map(tuple))
)


@given(SPECS, st.dictionaries(NAMES, st.text(st.characters(exclude_categories=("Cs",)), max_size=9), max_size=2))
@settings(max_examples=examples(100), deadline=None)
def test_built_headers_are_read_back(specs: dict[str, tuple], metadata: dict[str, str]) -> None:
    """Any header that we build is aligned, accepted by the official library, and read back to the same tensors."""
    raw = build_header([(name, *spec) for name, spec in specs.items()], metadata)
    size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in specs.values())
    header = parse_header(raw, len(raw) + size, "x")
    assert 0 == len(raw) % 8
    assert metadata == header.metadata
    assert specs == {entry.name: (entry.dtype, entry.shape) for entry in header.entries}
    official = dict(safetensors.deserialize(raw + bytes(size)))
    assert {name: list(shape) for name, (_, shape) in specs.items()} == {
        name: fields["shape"] for name, fields in official.items()
    }


_VALID = file_of(
    {
        "__metadata__": {"format": "pt"},
        "a": tensor(0, 8),
        "b": tensor(8, 24, (2, 4), "BF16"),
        "c": tensor(24, 24, (0, 3), "I64"),
    },
    bytes(24),
)


@given(
    st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-8, 8),
)
@settings(max_examples=examples(250), deadline=None)
def test_damaged_headers_never_escape(changes: list[tuple[int, int]], size_change: int) -> None:
    """However bytes change, a header is refused with one of our errors, or the official library accepts it too."""
    raw = bytearray(_VALID)
    for position, value in changes:
        raw[position] = value
    try:
        header = parse_header(bytes(raw), len(raw) + size_change, "x")
    except CheckpointError:
        return
    ends = [entry.end_bytes for entry in header.entries]
    assert header.data_start_bytes + max(ends, default=0) == len(raw) + size_change
    _assert_officially_valid(bytes(raw[: header.data_start_bytes]), len(raw) + size_change)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**65)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["F32", "BF16"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        JSON_VALUES | st.fixed_dictionaries({"dtype": JSON_VALUES, "shape": JSON_VALUES, "data_offsets": JSON_VALUES}),
    )
)
@settings(max_examples=examples(100), deadline=None)
def test_other_json_never_escapes(document: dict[str, object]) -> None:
    """Whatever JSON is in a header, it is refused with one of our errors, or the official library accepts it too."""
    raw = file_of(document)
    try:
        parse_header(raw, len(raw), "x")
    except CheckpointError:
        return
    _assert_officially_valid(raw, len(raw))


def _assert_officially_valid(start: bytes, size: int) -> None:
    safetensors.deserialize(start + bytes(size - len(start)))


def test_padding_matches_official_writer(tmp_path: Path) -> None:
    """For tensors in the official writer's order, our header is the official one, byte for byte."""
    path = write_file(tmp_path / "x.safetensors", every_kind(), {"format": "pt"})
    header, _, _ = read_header(path)
    written = json.loads(header.raw[8:])
    specs = [
        (name, DTYPES[written[name]["dtype"]], tuple(written[name]["shape"]))
        for name in written
        if name != "__metadata__"
    ]
    assert header.raw == build_header(specs)
    assert set(read_officially(path)) == {name for name, _, _ in specs}


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    """After parsing, the garbage collector is on or off as before, even if the header was refused."""
    was_enabled = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        parse_header(GOLDEN, len(GOLDEN) + 5, "golden")
        assert enabled == gc.isenabled()
        with pytest.raises(HeaderError):
            parse_header(GOLDEN, len(GOLDEN), "golden")
        assert enabled == gc.isenabled()
    finally:
        gc.enable() if was_enabled else gc.disable()


def test_fifty_thousand_tensors_are_fast() -> None:
    """A header of 50,000 tensors is parsed and checked in a fraction of a second."""
    dtype = DTYPES["BF16"]
    raw = build_header(
        (f"model.layers.{i // 700}.mlp.experts.{i % 700}.up_proj.weight", dtype, (2048, 1024)) for i in range(50_000)
    )
    size = len(raw) + 50_000 * 2048 * 1024 * 2
    with within(0.5):
        header = parse_header(raw, size, "x")
    assert 50_000 == len(header.entries)

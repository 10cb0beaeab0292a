"""Layouts give every byte one place, and name and fill shards as Hugging Face libraries expect."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.io.dtypes import DTYPES, DType
from dovetail.io.errors import HeaderError
from dovetail.io.formats.header import parse_header
from dovetail.io.formats.safetensors_layout import SafetensorsLayout, plan_layout
from tests.pace import within

F32, BF16, U8 = DTYPES["F32"], DTYPES["BF16"], DTYPES["U8"]
SPECS = st.lists(
    st.tuples(st.sampled_from([F32, BF16, U8]), st.lists(st.integers(0, 5), max_size=3).map(tuple)), max_size=12
).map(lambda specs: [(f"t{number}", *spec) for number, spec in enumerate(specs)])


def shard_names(layout: SafetensorsLayout) -> list[list[str]]:
    return [
        [tensor.name for tensor in layout.tensors if tensor.shard == number] for number in range(len(layout.shards))
    ]


def test_one_shard() -> None:
    """Tensors that fit one shard are one file of the usual name, without an index."""
    layout = plan_layout([("b", BF16, (3, 4)), ("a", F32, ())], 1000)
    assert ["model.safetensors"] == [shard.file_name for shard in layout.shards]
    assert layout.index is None
    assert 28 == layout.total_size_bytes
    assert layout.shards[0].size_bytes == len(layout.shards[0].header) + 28
    assert [len(layout.shards[0].header), len(layout.shards[0].header) + 24] == [t.offset_bytes for t in layout.tensors]
    assert [12, 1] == [tensor.length for tensor in layout.tensors]
    assert [24, 4] == [tensor.nbytes for tensor in layout.tensors]


def test_shards_and_index() -> None:
    """Shards are numbered from 1 of their count, and the index names the shard of each tensor and the total size."""
    layout = plan_layout([("c", F32, (2,)), ("b", F32, (1,)), ("a", F32, (2,))], 12)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert files == [shard.file_name for shard in layout.shards]
    assert {"a": files[1], "b": files[0], "c": files[0]} == json.loads(layout.index)["weight_map"]
    assert {"total_size": 20} == json.loads(layout.index)["metadata"]
    assert [files[0], files[0], files[1]] == [layout.file_name(number) for number in range(3)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([4, 4, 4], [["0", "1"], ["2"]]),
        ([20, 4, 4], [["0"], ["1", "2"]]),
        ([4, 20, 4], [["0"], ["1"], ["2"]]),
        ([8, 8], [["0"], ["1"]]),
        ([4, 0, 4, 0, 4], [["0", "1", "2", "3"], ["4"]]),
        ([0, 20, 0], [["0"], ["1"], ["2"]]),
    ],
)
def test_large_tensors_get_a_shard_of_their_own(sizes: list[int], expected: list[list[str]]) -> None:
    """Shards of 8 bytes are filled in the given order; a larger tensor is alone in its shard."""
    layout = plan_layout([(str(number), U8, (size,)) for number, size in enumerate(sizes)], 8)
    assert expected == shard_names(layout)


def test_no_tensors() -> None:
    """No tensors make one valid file without data."""
    layout = plan_layout([], 100)
    assert 1 == len(layout.shards)
    assert () == parse_header(layout.shards[0].header, layout.shards[0].size_bytes, "x").entries


@given(SPECS, st.integers(1, 400))
def test_layouts_are_valid(specs: list[tuple[str, DType, tuple[int, ...]]], shard_size_bytes: int) -> None:
    """Order is kept, shards stay within their size, headers are valid and aligned, and offsets are the headers'."""
    layout = plan_layout(specs, shard_size_bytes)
    assert specs == [(tensor.name, tensor.dtype, tensor.shape) for tensor in layout.tensors]
    assert sorted(tensor.shard for tensor in layout.tensors) == [tensor.shard for tensor in layout.tensors]
    assert sum(tensor.nbytes for tensor in layout.tensors) == layout.total_size_bytes
    for number, shard in enumerate(layout.shards):
        inside = {tensor.name: tensor for tensor in layout.tensors if tensor.shard == number}
        header = parse_header(shard.header, shard.size_bytes, shard.file_name)
        assert 0 == header.data_start_bytes % 8
        assert {"format": "pt"} == header.metadata
        assert {name: tensor.offset_bytes for name, tensor in inside.items()} == {
            entry.name: header.data_start_bytes + entry.begin_bytes for entry in header.entries
        }
        assert len(inside) == 1 or sum(tensor.nbytes for tensor in inside.values()) <= shard_size_bytes


def test_names_must_differ() -> None:
    """Two tensors of one name are refused, in one shard and across shards."""
    for size in (4, 100):
        with pytest.raises(HeaderError, match="two tensors are called 'w'"):
            plan_layout([("w", F32, (1,)), ("w", F32, (1,))], size)


def test_shard_size_must_be_positive() -> None:
    """A shard size of 0 is refused."""
    with pytest.raises(ValueError, match="it must be positive"):
        plan_layout([], 0)


def test_layouts_are_pickled() -> None:
    """A pickled layout is the same in another process."""
    layout = plan_layout([("w", F32, (1,)), ("v", F32, (1,))], 4)
    assert layout == pickle.loads(pickle.dumps(layout))


def test_fifty_thousand_tensors_are_fast() -> None:
    """Laying out 50,000 tensors takes a fraction of a second."""
    specs = [
        (f"model.layers.{i // 700}.mlp.experts.{i % 700}.up_proj.weight", BF16, (2048, 1024)) for i in range(50_000)
    ]
    with within(1):
        layout = plan_layout(specs, 5 * 10**9)
    assert math.ceil(layout.total_size_bytes / 5e9) <= len(layout.shards) < 50

"""Rows that are longer than a stretch: the same bits as of short ones, in memory that hardly grows with the models."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import plan
from dovetail.engine.methods.decoding import STRETCH
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.methods.sparsified import SparsifiedSum
from dovetail.engine.planning.grid import PAGE_SLACK_BYTES, chunk_elements
from tests.engine.kernels.cases import JITTED
from tests.engine.kernels.drive import add_up, run_program
from tests.engine.methods.probing import describe

SHAPE = (2, STRETCH + 4_321)


def sources(count: int) -> tuple[Any, list[Any]]:
    chance = np.random.default_rng(0)
    base = chance.normal(size=SHAPE).astype(np.float32)
    base[0, :9] = np.nan
    return base, [base + chance.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


def problem(method: str, base: Any, models: list[Any]) -> Any:
    each = [{"weight": 1.0 + index, "density": 0.5, "epsilon": 0.2} for index in range(len(models))]
    return describe(method, base, models, {}, each)


@pytest.mark.skipif(not JITTED, reason="hundreds of thousands of elements take minutes in plain Python")
@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("cuts", [(), (SHAPE[1],), (1_000, SHAPE[1] + 70_000)], ids=["whole", "rows", "anywhere"])
def test_the_same_bits(method: str, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are marked first and added up later give the bits, and the counts, of rows handled at once."""
    base, models = sources(3)
    described = problem(method, base, models)
    program = METHODS[method].program(described)
    found, statistics = run_program(described, program, base, models, cuts)
    monkeypatch.setattr(SparsifiedSum, "_mark_long", SparsifiedSum._mark_short)
    expected, others = run_program(described, program, base, models)
    assert expected.tobytes() == found.tobytes()
    one, other = add_up(others), add_up(statistics)
    assert one.kept.tolist() == other.kept.tolist()
    assert one.nonfinite.tolist() == other.nonfinite.tolist()
    assert one.overflowed == other.overflowed
    np.testing.assert_allclose(one.kept_square, other.kept_square, rtol=1e-12)


def by_rows(method: str, parameters: dict[str, Any], base: Any, models: list[Any]) -> Any:
    """Describe a tensor to a method that knows no more of its models than a weight."""
    return describe(method, base, models, parameters, [{"weight": 1.0 + index} for index in range(len(models))])


BY_ROWS: list[tuple[str, dict[str, Any], int]] = [
    ("model_stock", {"filter_wise": True}, 3),
    ("nuslerp", {"nuslerp_flatten": False}, 2),
    ("arcee_fusion", {}, 1),
]


@pytest.mark.skipif(not JITTED, reason="hundreds of thousands of elements take minutes in plain Python")
@pytest.mark.parametrize(("method", "parameters", "count"), BY_ROWS, ids=[method for method, _, _ in BY_ROWS])
@pytest.mark.parametrize("cuts", [(), (1_000, SHAPE[1] + 70_000)], ids=["whole", "anywhere"])
def test_rows_in_parts_have_the_bits_of_whole_ones(
    method: str, parameters: dict[str, Any], count: int, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is longer than a stretch is decoded part by part, and merged to the bits of one decoded whole."""
    base, models = sources(count)
    described = by_rows(method, parameters, base, models)
    program = METHODS[method].program(described)
    found, statistics = run_program(described, program, base, models, cuts)
    monkeypatch.setattr(sys.modules[type(program).__module__], "STRETCH", 4 * STRETCH)
    expected, others = run_program(described, program, base, models)
    assert expected.tobytes() == found.tobytes()
    one, other = add_up(others), add_up(statistics)
    assert one.nonfinite.tolist() == other.nonfinite.tolist()
    assert one.overflowed == other.overflowed


@pytest.mark.skipif(not JITTED, reason="hundreds of thousands of elements take minutes in plain Python")
@pytest.mark.parametrize(
    ("method", "parameters", "count"),
    [
        ("della", {}, 3),
        ("model_stock", {"filter_wise": True}, 3),
        ("arcee_fusion", {}, 1),
        ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, 2),
    ],
)
def test_memory_is_within_the_projection(method: str, parameters: dict[str, Any], count: int) -> None:
    """What a chunk of a long row takes is within its projection; a stretch more for each model would be seen."""
    base, models = sources(count)
    described = problem(method, base, models) if method == "della" else by_rows(method, parameters, base, models)
    program: Any = METHODS[method].program(described)
    run_program(described, program, base, models)  # compiled from now on
    tracemalloc.start()
    try:
        run_program(described, program, base, models)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    copies = 4 * base.size * (count + 2)  # those of `run_program` itself, the output among them
    reducing = 2 * (program.partial_bytes(base.size) + program.accumulator_bytes(base.size, 1))  # pickled, too
    assert peak - copies < program.scratch_bytes(base.size) + reducing + 2**20


@pytest.mark.parametrize(
    ("method", "parameters", "most_mib"),
    [
        ("model_stock", {"filter_wise": True}, 2),
        ("nuslerp", {"nuslerp_flatten": False}, 2),
        ("arcee_fusion", {}, 20),
    ],
)
def test_long_rows_take_no_more_than_a_stretch(method: str, parameters: dict[str, Any], most_mib: int) -> None:
    """Methods that need no whole row at once take the same working memory for any row that is longer than a stretch."""
    shape, found = [np.broadcast_to(np.float32(0), (1, columns)) for columns in (16 * STRETCH, 64 * STRETCH)], []
    for row in shape:
        described = by_rows(method, parameters, row, [row] * (1 if method == "arcee_fusion" else 2))
        found.append(METHODS[method].program(described).scratch_bytes(row.size))
    assert found[0] == found[1] < most_mib * 2**20


def headers_only(folder: Path, shape: tuple[int, ...], count: int) -> list[str]:
    """Write checkpoints that have a header, and a hole in the place of elements."""
    size = 2 * int(np.prod(shape))
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
    paths = [folder / f"{index}.safetensors" for index in range(count)]
    for path in paths:
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
    return [str(path) for path in paths]


def merged_by_rows(folder: Path, columns: int, count: int, method: str = "della", **parameters: Any) -> Any:
    """Plan a merge of one matrix by a method that looks at whole rows."""
    base, *models = headers_only(folder, (max(1, 2**24 // columns), columns), 1 + count)
    content = {"merge_method": method, "base_model": base, "dtype": "bfloat16", "parameters": parameters}
    return plan({**content, "models": [{"model": model, "parameters": {"weight": 1}} for model in models]})


@pytest.mark.parametrize(
    ("columns", "elements"),
    [(4_096, None), (65_536, None), (90_000, 90_000), (300_000, 300_000), (4_194_304, 4_194_304)],
)
def test_a_long_row_is_read_once(tmp_path: Path, columns: int, elements: int | None) -> None:
    """A chunk is whole rows where the rows are about as long as a chunk would be; other chunks stay as they were."""
    [tensor] = merged_by_rows(tmp_path, columns, 12, density=0.5, epsilon=0.2).tensors
    usual = chunk_elements(tensor.element_bytes, 13)
    assert (elements or usual) == tensor.chunking.chunk_elements
    windows = [tensor.program.window(*tensor.input_range(index)) for index in range(tensor.chunk_count)]
    read = sum(stop - start for start, stop in windows)
    assert read <= 1.5 * tensor.length


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 0.9, 1.0, 1.1, 1.4, 1.6])
@pytest.mark.parametrize("method", ["della", "model_stock"])
def test_no_chunk_takes_more_than_is_projected(tmp_path: Path, method: str, share: float) -> None:
    """Rows of any length make no chunk hold much more than a chunk or a row, and none more than the plan projects."""
    usual = chunk_elements(8)
    parameters = {"filter_wise": True} if method == "model_stock" else {"density": 0.5, "epsilon": 0.2}
    made = merged_by_rows(tmp_path, int(share * usual) + 1, 2, method, **parameters)
    [tensor] = made.tensors
    ranges = [tensor.input_range(index) for index in range(tensor.chunk_count)]
    widest = max(stop - start for start, stop in (tensor.program.window(*each) for each in ranges))
    assert widest <= 1.5 * max(usual, tensor.shape[1])
    taken = max(tensor.held_bytes(*each) + tensor.scratch_bytes(*each) for each in ranges)
    assert taken + len(tensor.inputs) * PAGE_SLACK_BYTES <= made.task_bytes

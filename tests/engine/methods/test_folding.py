"""Partial results and accumulators take no more memory than their programs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.methods.gathering import Gathering
from dovetail.engine.methods.gram import ColumnProducts, Gathered
from dovetail.engine.methods.program import Chunk, sample_chunk
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.methods.threshold import Tally
from tests.engine.kernels.cases import JITTED
from tests.engine.methods.probing import describe

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ties": ("ties", {"density": 0.4, "weight": 0.7, "rescale": True, "normalize": True}, 2),
    "breadcrumbs": ("breadcrumbs", {"density": 0.4, "gamma": 0.1, "weight": 0.7}, 2),
    "della": ("della", {"density": 0.4, "epsilon": 0.1, "weight": 0.7, "rescale": True}, 2),
    "sce": ("sce", {"select_topk": 0.3}, 2),
    "ramplus_tl": ("ramplus_tl", {}, 2),
    "arcee_fusion": ("arcee_fusion", {}, 1),
    "model_stock": ("model_stock", {}, 3),
    "nuslerp by column": ("nuslerp", {"weight": 0.5, "nuslerp_flatten": False, "nuslerp_row_wise": True}, 2),
    "tsv_m": ("tsv_m", {}, 3),
    "tsv_m of a tall matrix": ("tsv_m", {}, 3),
    "iso_c": ("iso_c", {}, 2),
    "iso_c of a tall matrix": ("iso_c", {}, 2),
    "cabs": ("cabs", {"n": 3, "m": 10, "weight": 1.0, "balanced": False, "overlap": "minimize"}, 3),
    "cabs by kernel": ("cabs", {"n": 3, "m": 10, "weight": 1.0, "granularity": "kernel"}, 3),
}
"""Method, parameters, number of models."""

SHAPE = (600, 1000)
CHUNK = 65_536


def _size(value: Any, seen: set[int] | None = None) -> int:
    """Count the bytes of the arrays and numbers that a value is made of, those of an array once."""
    seen = set() if seen is None else seen
    if isinstance(value, np.ndarray):
        owner = value if value.base is None else value.base
        new = id(owner) not in seen
        seen.add(id(owner))
        return int(owner.nbytes) if new else 0
    if isinstance(value, Tally):
        return _size(value.totals, seen) + _size(value.chunks, seen)
    if isinstance(value, Gathering):
        return _size(value.chunks, seen)
    if isinstance(value, ColumnProducts | Gathered):
        return sum(_size(each, seen) for each in vars(value).values())
    if isinstance(value, tuple | list):
        return sum(_size(each, seen) for each in value)
    if is_dataclass(value):
        return sum(_size(getattr(value, field.name), seen) for field in fields(value))
    return 0 if value is None else 8


def _sample(ranges: Sequence[tuple[int, int]], sources: Sequence[NDArray[Any]]) -> Chunk:
    """Make the chunk of a pass that reads ranges."""
    places = np.concatenate([np.arange(*each) for each in ranges])
    base, *models = (source.reshape(-1)[places].view(np.uint8) for source in sources)
    return sample_chunk(ranges, base, models)


def _split(method: str, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part parameters into merge-wide and per-model ones."""
    own = {row.name for row in METHODS[method].parameters if row.scope == "model"}
    return (
        {name: value for name, value in parameters.items() if name not in own},
        {name: value for name, value in parameters.items() if name in own},
    )


@pytest.mark.skipif(not JITTED, reason="takes minutes as plain Python, and holds the same arrays")
@pytest.mark.parametrize("case", CASES)
def test_programs_hold_no_more_than_they_say(case: str) -> None:
    """Over ten chunks, every partial result, and the accumulator with the states around it, is within its bound."""
    method, parameters, count = CASES[case]
    random = np.random.default_rng(3)
    shape = SHAPE[::-1] if case.endswith("of a tall matrix") else SHAPE
    base = random.standard_normal(shape).astype(np.float32)
    models = [base + random.standard_normal(shape).astype(np.float32) * 0.1 for _ in range(count)]
    whole, each = _split(method, parameters)
    problem = describe(method, base, models, whole, [each] * count)
    program = METHODS[method].program(problem)
    assert program.reduce_passes > 0
    edges = [*range(0, base.size, CHUNK), base.size]
    chunks = []
    for index, (start, stop) in enumerate(pairwise(edges)):
        low, high = program.window(start, stop)
        views = [array.reshape(-1)[low:high].view(np.uint8) for array in (base, *models)]
        chunks.append(Chunk(index, start, stop, low, views[0], tuple(views[1:])))
    state: Any = None
    for step in range(program.reduce_passes):
        reads = program.reads(step, state)
        if reads is not None and not reads:
            continue
        accumulator = program.begin(step, state)
        for chunk in [_sample(reads, [base, *models])] if reads else chunks:
            partial = program.reduce(step, chunk, state)
            bound = program.accumulator_bytes(CHUNK, len(chunks)) if reads else program.partial_bytes(CHUNK)
            assert _size(partial) <= bound, step
            accumulator = program.fold(step, accumulator, partial)
        before, state = state, program.finish(step, accumulator, state)
        assert _size([before, accumulator, state]) <= program.accumulator_bytes(CHUNK, len(chunks)), step

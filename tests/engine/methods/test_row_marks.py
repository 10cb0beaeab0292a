"""Parts kept at random: what two kernels compute from bits is what the slow way computes, step by step."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.methods.program import Chunk, ChunkStatistics, Problem
from dovetail.engine.methods.registry import METHODS
from tests.engine.kernels.cases import JITTED
from tests.engine.kernels.drive import DTYPES, add_up, bits, run_program
from tests.engine.methods.probing import describe

SHAPES = [(3, 41), (2, 130), (70, 3), (5, 2, 3, 3), (9,), ()]
LONG_SHAPES = [(5, 33_000), (40, 4096), (66_000,), (9, 14_336), (300, 500)]
EACH = [
    {"weight": 0.7, "density": 0.5, "epsilon": 0.2},
    {"weight": -0.3, "density": 1.0},
    {"weight": 1.1, "density": 0.4, "epsilon": 0.0},
]
"""A model that ranks, one that keeps everything, and one that keeps a part at random."""


def sources(shape: tuple[int, ...], dtype: Any, special: bool) -> tuple[Any, list[Any]]:
    """Make a base model and three fine-tunes, perhaps with NaN and infinity."""
    random = np.random.default_rng(len(shape))
    base = np.asarray(random.standard_normal(shape) * 0.02)
    models = [np.asarray(base + random.standard_t(3, shape) * 1e-3) for _ in EACH]
    if special:
        base.flat[0], models[1].flat[-1] = np.nan, np.inf
    return base.astype(dtype), [model.astype(dtype) for model in models]


def describe_three(method: str, base: Any, models: list[Any], **options: Any) -> Problem:
    """Describe a tensor; `epsilon` is for methods that have one."""
    each = [
        {name: value for name, value in one.items() if name != "epsilon" or method.startswith("della")} for one in EACH
    ]
    return describe(method, base, models, options, each, base.dtype, seed=3)


def in_steps(program: Any, problem: Problem, base: Any, models: list[Any]) -> tuple[NDArray[Any], ChunkStatistics]:
    """Merge a tensor at once, each step with a kernel of its own."""
    raw = [np.ravel(source).view(np.uint8) for source in (base, *models)]
    chunk, state = Chunk(0, 0, problem.length, 0, raw[0], tuple(raw[1:])), None
    out = np.empty(problem.length, DTYPES[problem.out_code])
    with np.errstate(all="ignore"):
        if program.reduce_passes:
            state = program.finish(0, [(program._sum(chunk), ())], None)
        begin = program._summing(program.scales(state))
        return out, program.mark(chunk, state, begin, out.view(np.uint8)).statistics


@pytest.mark.parametrize("special", [False, True], ids=["finite", "special"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [*SHAPES, *LONG_SHAPES] if JITTED else SHAPES, ids=str)
@pytest.mark.parametrize(("method", "options"), [("della", {}), ("della", {"rescale": False}), ("della_linear", {})])
def test_ranks_in_rows(method: str, options: dict[str, Any], shape: tuple[int, ...], dtype: Any, special: bool) -> None:
    """The output and all statistics have the bits of the slow way; cut anywhere, without marks held, the output has."""
    base, models = sources(shape, dtype, special)
    problem = describe_three(method, base, models, **options)
    program = METHODS[method].program(problem)
    expected, one = in_steps(program, problem, base, models)
    found, (statistics,) = run_program(problem, program, base, models)
    np.testing.assert_array_equal(bits(expected), bits(found))
    for field in fields(ChunkStatistics):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(statistics, field.name))
    found, several = run_program(
        problem, program, base, models, cuts=(problem.length // 3, problem.length - 1), widen=5
    )
    np.testing.assert_array_equal(bits(expected), bits(found))
    assert one.kept.tolist() == add_up(several).kept.tolist()
    assert one.nonfinite.tolist() == add_up(several).nonfinite.tolist()


@pytest.mark.parametrize("special", [False, True], ids=["finite", "special"])
@pytest.mark.parametrize("shape", [*SHAPES, *LONG_SHAPES] if JITTED else SHAPES, ids=str)
@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_held_marks_of_parts_without_ranks(method: str, shape: tuple[int, ...], special: bool) -> None:
    """Marks that are held give the bits, in the output and in the sums, of marks that are made twice."""
    base, models = sources(shape, np.float32, special)
    problem = describe_three(method, base, models)
    program: Any = METHODS[method].program(problem)
    raw = [np.ravel(source).view(np.uint8) for source in (base, *models)]
    chunk = Chunk(0, 0, problem.length, 0, raw[0], tuple(raw[1:]))
    sums, held = program.reduce(0, chunk, None)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(program._sum_fused(chunk, program._nothing), sums)
        state = program.finish(0, [(sums, held)], None)
        assert len(state.held) == 1
        outputs = np.empty((2, problem.length), np.float32)
        one, other = (
            program.apply(chunk, each, out.view(np.uint8))
            for each, out in zip((state, replace(state, held=())), outputs, strict=True)
        )
    np.testing.assert_array_equal(bits(outputs[0]), bits(outputs[1]))
    for field in fields(ChunkStatistics):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))

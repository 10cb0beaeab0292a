"""CABS over whole kernels: against an oracle that knows nothing of chunks, and what it means for models."""

from __future__ import annotations

from math import fsum, inf, isnan
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods import cabs_kernels
from dovetail.engine.methods.registry import METHODS
from tests import naive
from tests.engine.kernels.cases import Sources, examples, model_parameters, sources
from tests.engine.kernels.drive import add_up, bits, make_problem, run_program
from tests.engine.methods.probing import describe, run

KERNELS: dict[str, Any] = {"granularity": "kernel"}


def norm(values: NDArray[np.float32]) -> np.float32:
    """Sum magnitudes, NaN above infinity."""
    terms = [abs(float(value)) for value in values]
    if any(isnan(term) for term in terms):
        return np.float32(np.nan)
    return np.float32(inf if inf in terms else fsum(terms))


def merge_by_rows(case: Sources, each: list[dict[str, Any]], options: dict[str, Any]) -> naive.Merged:
    """Merge row by row: masks over the norms of rows, spread over their changed elements."""
    rows = case.base.shape[0]
    weights = [one["weight"] for one in each]
    with np.errstate(all="ignore"):
        base = case.base.astype(np.float32).reshape(rows, -1)
        taus = [model.astype(np.float32).reshape(rows, -1) - base for model in case.models]
        norms = [np.array([norm(row) for row in tau], np.float32) for tau in taus]
    chosen = naive.cabs_masks(
        norms,
        [one["n"] for one in each],
        [one["m"] for one in each],
        options["overlap"],
        options["conflict_aware"],
    )
    masks = [(mask[:, None] & (tau != 0)).ravel() for mask, tau in zip(chosen, taus, strict=True)]
    change = np.zeros(base.size, np.float32)
    with np.errstate(all="ignore"):
        for i in range(base.size):
            kept = [
                np.float32(np.float32(weight) * tau.ravel()[i])
                for tau, mask, weight in zip(taus, masks, weights, strict=True)
                if mask[i]
            ]
            change[i] = naive.merge_kept(kept, options["consensus"])
        flat = base.ravel()
        output = np.where(change == 0, flat, flat + change).astype(case.out_dtype).reshape(case.base.shape)
    return naive.Merged(output, tuple(masks), tuple(tau.ravel() for tau in taus), change)


@settings(derandomize=True, deadline=None, max_examples=examples(80))
@given(data=st.data())
def test_equals_the_oracle_whatever_the_chunks(data: st.DataObject) -> None:
    """n of every m rows, under every option, however long rows are, wherever chunks and parts of rows are cut."""
    case = data.draw(sources())
    assume(case.base.ndim > 1 and case.base.size)
    each = model_parameters(data.draw, len(case.models))
    options = {
        "overlap": data.draw(st.sampled_from(["forbid", "minimize"])),
        "consensus": data.draw(st.sampled_from(["sum", "ties"])),
        "conflict_aware": data.draw(st.booleans()),
    }
    cuts = data.draw(st.lists(st.integers(0, case.base.size), max_size=4))
    problem = make_problem("cabs", case.base, case.models, each, case.out_dtype, **KERNELS, **options)
    with patch.object(cabs_kernels, "STRETCH", data.draw(st.sampled_from([2, 7, 1 << 16]))):
        program = METHODS["cabs"].program(problem)
        assert isinstance(program, cabs_kernels.KernelCabs)
        out, parts = run_program(problem, program, case.base, case.models, cuts, data.draw(st.sampled_from([0, 3])))
    expected = merge_by_rows(case, each, options)
    np.testing.assert_array_equal(bits(expected.output), bits(out))
    masks = np.array(expected.masks, np.int64)
    np.testing.assert_array_equal(masks @ masks.T, add_up(parts).kept)


def test_no_two_models_change_one_kernel() -> None:
    """Each kernel of the merge is the base model's or that of one model, whole; its strongest come first."""
    random = np.random.default_rng(0)
    base = random.standard_normal((8, 3, 3, 3)).astype(np.float32)
    models = [base + random.standard_normal(base.shape).astype(np.float32) for _ in range(2)]
    merged = run(
        describe("cabs", base, models, KERNELS, [{"weight": 1.0, "n": 1, "m": 4}] * 2), "cabs", base, models, [50, 100]
    )
    sizes = [np.abs(model - base).sum(axis=(1, 2, 3)) for model in models]
    owner = [None] * 8
    for start in (0, 4):
        first = start + int(np.argmax(sizes[0][start : start + 4]))
        second = max((k for k in range(start, start + 4) if k != first), key=lambda k: float(sizes[1][k]))
        owner[first], owner[second] = 0, 1  # type: ignore[call-overload]
    for kernel, model in enumerate(owner):
        expected = base[kernel] if model is None else base[kernel] + (models[model][kernel] - base[kernel])
        np.testing.assert_array_equal(expected, merged[kernel])


def test_tensors_of_one_dimension_are_pruned_by_weight() -> None:
    """Biases and scales have a row for every value."""
    base, model = np.zeros(6, np.float32), np.array([1, 2, 3, 3, 2, 1], np.float32)
    each = [{"weight": 1.0, "n": 1, "m": 3}]
    by_weight = run(describe("cabs", base, [model], {}, each), "cabs", base, [model])
    by_kernel = run(describe("cabs", base, [model], KERNELS, each), "cabs", base, [model])
    np.testing.assert_array_equal(by_weight, by_kernel)
    np.testing.assert_array_equal([0, 0, 3, 3, 0, 0], by_kernel)


def test_pruning_alone_is_offered_too() -> None:
    """n:m pruning without conflict awareness takes whole kernels as CABS does where models prune alone."""
    random = np.random.default_rng(1)
    base = random.standard_normal((6, 5)).astype(np.float32)
    models = [base + random.standard_normal(base.shape).astype(np.float32) for _ in range(3)]
    each = [{"weight": 0.5, "n": 1, "m": 3}] * 3
    alone = run(describe("nm_pruning", base, models, KERNELS, each), "nm_pruning", base, models)
    cabs = run(describe("cabs", base, models, {**KERNELS, "conflict_aware": False}, each), "cabs", base, models)
    np.testing.assert_array_equal(bits(cabs), bits(alone))


def test_whole_tensors_are_refused() -> None:
    """There is no ranking of kernels over the whole tensor, and asking for it is an error."""
    one = np.zeros((2, 2), np.float32)
    problem = describe("cabs", one, [one], {**KERNELS, "balanced": False}, [{"weight": 1.0, "n": 1, "m": 2}])
    with pytest.raises(RecipeError, match=r"'granularity' is kernel and 'balanced' is false for tensor 'layer.weight'"):
        METHODS["cabs"].program(problem)

"""Every method as a program against its oracle, whatever the dtypes, shapes, parameters and chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dovetail.engine.methods.registry import METHODS
from tests.engine.kernels.cases import MOST_MODELS, examples, make_values, shapes
from tests.engine.kernels.drive import DTYPES
from tests.engine.methods.probing import describe, found_masks, run
from tests.oracles import ORACLES, RANDOM, Result, explain
from tests.oracles.spectral import is_matrix, is_well_posed
from tests.oracles.values import BASELESS, COUNTS, EITHER, PER_MODEL, VALUES

Array = NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """One tensor and its parameters."""

    base: Array | None
    models: tuple[Array, ...]
    parameters: dict[str, Any]
    each: list[dict[str, Any]]
    cuts: list[int]
    widen: int


@st.composite
def problems(draw: st.DrawFn, method: str) -> Drawn:
    """Draw a tensor of finite values, the method's parameters, and chunks."""
    shape = draw(shapes())
    least, most = COUNTS.get(method, (1, MOST_MODELS))
    count = draw(st.integers(least, min(most, MOST_MODELS)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    style = draw(st.sampled_from(["ties", "plain"]))
    dtypes = draw(st.lists(st.sampled_from(DTYPES[:4]), min_size=count + 1, max_size=count + 1))
    base: Array = make_values(random, shape, None, style).astype(dtypes[0])
    models = tuple(make_values(random, shape, base, style).astype(dtype) for dtype in dtypes[1:])
    with_base = method not in BASELESS and (method not in EITHER or draw(st.booleans()))
    values = VALUES[method]
    own = PER_MODEL[method]
    return Drawn(
        base if with_base else None,
        models,
        {key: draw(value) for key, value in values.items() if key not in own},
        [{key: draw(values[key]) for key in own} for _ in models],
        draw(st.lists(st.integers(0, max(1, base.size)), max_size=4)),
        draw(st.integers(0, 2)),
    )


def well_posed(method: str, drawn: Drawn) -> bool:
    """Whether there is one right result: no opposite directions, where their mean could be any, and no equal ones."""
    if method in ("tsv_m", "iso_c"):
        assert drawn.base is not None
        base = drawn.base.astype(np.float32)
        taus = [(model.astype(np.float32) - base).astype(np.float64) for model in drawn.models]
        weighted = [float(one["weight"]) * tau for one, tau in zip(drawn.each, taus, strict=True)]
        matrices = is_matrix(base.shape, drawn.parameters["decompose"]) and base.size
        return not matrices or is_well_posed([tau.reshape(len(tau), -1) for tau in weighted])
    if method not in ("karcher", "multislerp"):
        return True
    origin = 0.0 if drawn.base is None else drawn.base.astype(np.float64)
    vectors = [np.ravel(model.astype(np.float64) - origin) for model in drawn.models]
    lengths = [np.linalg.norm(vector) for vector in vectors]
    if min(lengths, default=0) < 0.05:
        return False
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
    gram = np.array(units) @ np.array(units).T
    return bool(gram.min(initial=1) > -0.95 and np.linalg.norm(sum(units)) > 0.1)


def compare(expected: Result, merged: Array, out_dtype: np.dtype[Any]) -> None:
    """Compare a merge with the definition: equal, or within 2 units of the largest operand."""
    assert expected.output.shape == merged.shape
    if expected.exact:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(expected.output.astype(out_dtype), merged)
        return
    difference = np.abs(expected.output.astype(np.float64) - merged.astype(np.float64))
    clear = np.ones(merged.shape, bool) if expected.doubtful is None else ~expected.doubtful
    np.testing.assert_array_less(difference[clear], expected.tolerance(2)[clear] * (1 + 1e-9) + 1e-44)


@pytest.mark.parametrize("method", [name for name in METHODS if name in ORACLES])
@settings(derandomize=True, deadline=None, max_examples=examples(20))
@given(data=st.data())
def test_equals_the_oracle_whatever_the_chunks(method: str, data: st.DataObject) -> None:
    """Programs give what the definition gives, bit for bit where that is defined."""
    drawn = data.draw(problems(method))
    assume(well_posed(method, drawn))
    masks = None
    if method in RANDOM:
        zero = np.float32(0) if drawn.base is None else drawn.base.astype(np.float32)
        masks = found_masks(method, [model.astype(np.float32) - zero for model in drawn.models], drawn.each)
    expected = explain(method, drawn.base, drawn.models, drawn.parameters, drawn.each, masks=masks)
    choices = [np.dtype(np.float32), *([DTYPES[1], DTYPES[2]] if expected.exact else [])]
    out_dtype = data.draw(st.sampled_from(choices))
    problem = describe(method, drawn.base, drawn.models, drawn.parameters, drawn.each, out_dtype)
    merged = run(problem, method, drawn.base, drawn.models, drawn.cuts, drawn.widen)
    compare(expected, merged, out_dtype)
    whole = run(problem, method, drawn.base, drawn.models)
    np.testing.assert_array_equal(whole, merged)


def test_every_method_is_compared() -> None:
    """Every method without an oracle here has a separate test that names one."""
    assert set(METHODS) <= {*ORACLES, "cabs", "nm_pruning", "magnitude"}

"""Tensors that models keep in float32 among narrower ones stay so, whatever dtype is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import PlanOptions, convert, merge, plan
from tests.checkpoints import BF16, read_output, write_checkpoint, write_recipe
from tests.engine.command import dovetail

Tensors = dict[str, NDArray[Any]]
GATE, BIAS = "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.e_score_correction_bias"
DECAY, STEP, NORM = (
    "model.layers.0.mixer.A_log",
    "model.layers.0.mixer.dt_bias",
    "model.layers.0.linear_attn.norm.weight",
)


def model(seed: int, narrow: Any = BF16) -> Tensors:
    """Make a model of matrices and a few small tensors in float32, near 10 and apart by less than bfloat16 can tell."""
    random = np.random.default_rng(seed)
    near = {name: (10 + 0.001 * random.standard_normal(64)).astype(np.float32) for name in (BIAS, DECAY, STEP, NORM)}
    return {GATE: random.standard_normal((64, 64)).astype(narrow)} | near


def merged(home: Path, models: list[Tensors], dtype: str | None = "bfloat16", **options: Any) -> tuple[Tensors, str]:
    """Average models by the command's own plan; give the output and all warnings of the plan."""
    folders = [write_checkpoint(home / f"m{i}", found) for i, found in enumerate(models)]
    content = {"merge_method": "linear", "models": [{"model": str(folder)} for folder in folders]}
    recipe = write_recipe(
        home / "recipe.yml", **content, parameters={"weight": 1}, **({"dtype": dtype} if dtype else {})
    )
    merge(recipe, home / "out", PlanOptions(**options))
    return read_output(home / "out"), " ".join(plan(recipe, PlanOptions(**options)).warnings)


def mean(name: str, models: list[Tensors]) -> NDArray[np.float32]:
    """Average one tensor in float32."""
    total = models[0][name].astype(np.float32) + models[1][name].astype(np.float32)
    return total / np.float32(2)


def test_what_all_models_keep_in_float32_stays_so(tmp_path: Path) -> None:
    """Whatever its name, what is in float32 among bfloat16 is merged and stored in float32; the plan says so."""
    models = [model(1), model(2)]
    out, said = merged(tmp_path, models)
    for name in (BIAS, DECAY, STEP, NORM):
        assert np.float32 == out[name].dtype
        assert np.array_equal(mean(name, models), out[name])
        assert 60 < len(set(out[name].tolist()))
    assert BF16 == out[GATE].dtype
    assert "4 tensors kept in float32 as in all models, not rounded to bfloat16" in said
    assert 0 == dovetail("verify", tmp_path / "out", "--recompute", "1").code


def test_rounded_if_asked_for(tmp_path: Path) -> None:
    """With `round_float32` all are rounded, without a word, and the manifest says so to those who recompute."""
    models = [model(1), model(2)]
    out, said = merged(tmp_path, models, round_float32=True)
    for name in (BIAS, NORM):
        assert np.array_equal(mean(name, models).astype(BF16), out[name])
    assert "" == said
    assert 0 == dovetail("verify", tmp_path / "out", "--recompute", "1").code


def test_models_that_are_all_float32(tmp_path: Path) -> None:
    """There the names tell: router biases, decays and time steps stay; norms and matrices are rounded as asked for."""
    out, said = merged(tmp_path, [model(1, np.float32), model(2, np.float32)])
    assert [np.float32] * 3 == [out[name].dtype for name in (BIAS, DECAY, STEP)]
    assert [BF16, BF16] == [out[name].dtype for name in (NORM, GATE)]
    assert "3 tensors kept in float32" in said


def test_what_only_some_keep_is_rounded_and_named(tmp_path: Path) -> None:
    """A model that has rounded a bias already has lost it; that the others' is rounded too is a warning."""
    out, said = merged(tmp_path, [model(1), model(2) | {BIAS: model(2)[BIAS].astype(BF16)}])
    assert BF16 == out[BIAS].dtype
    assert f"1 tensor rounded to bfloat16 that only some models keep in float32 (such as {BIAS!r})" in said


def test_what_the_base_has_rounded_is_named(tmp_path: Path) -> None:
    """Where no dtype is asked for, tensors have the first model's; what that rounds of the others' is a warning too."""
    rounded, exact = model(1) | {BIAS: model(1)[BIAS].astype(BF16)}, model(2)
    out, said = merged(tmp_path / "a", [rounded, exact], None)
    assert BF16 == out[BIAS].dtype
    assert f"1 tensor rounded to bfloat16 that only some models keep in float32 (such as {BIAS!r})" in said
    out, said = merged(tmp_path / "b", [exact, rounded], None)
    assert (np.float32, "") == (out[BIAS].dtype, said)


def test_fine_tunes_stored_wider_are_no_islands(tmp_path: Path) -> None:
    """A model that is all float32 keeps nothing among narrower tensors but what is known by its name."""
    out, said = merged(
        tmp_path, [{name: each.astype(BF16) for name, each in model(1).items()}, model(2, np.float32)], None
    )
    assert {np.dtype(BF16)} == {each.dtype for each in out.values()}
    assert "3 tensors rounded to bfloat16 that only some models keep in float32" in said


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_nothing_to_keep(tmp_path: Path, dtype: str | None) -> None:
    """Where no dtype is asked for, tensors have the base's; in float32 nothing is lost. Neither is worth a word."""
    out, said = merged(tmp_path, [model(1), model(2)], dtype)
    assert np.float32 == out[BIAS].dtype
    assert "" == said


def test_float16(tmp_path: Path) -> None:
    """Float16 rounds values near 10 to steps of 0.008, so the same holds of it."""
    models = [model(1), model(2)]
    out, _ = merged(tmp_path, models, "float16")
    assert np.array_equal(mean(DECAY, models), out[DECAY])
    assert np.float16 == out[GATE].dtype


def test_conversions_keep_them_too(tmp_path: Path) -> None:
    """`dovetail convert --dtype bfloat16` of a float32 model keeps router biases, and rounds them if asked."""
    source = write_checkpoint(tmp_path / "source", model(1, np.float32))
    outcome = dovetail("convert", source, tmp_path / "out", "--dtype", "bfloat16")
    assert 0 == outcome.code
    assert "3 tensors kept in float32" in outcome.err
    out = read_output(tmp_path / "out")
    assert np.array_equal(model(1)[BIAS], out[BIAS])
    assert BF16 == out[GATE].dtype
    convert(source, tmp_path / "rounded", PlanOptions(dtype="bfloat16", round_float32=True))
    assert BF16 == read_output(tmp_path / "rounded")[BIAS].dtype


def test_the_option_of_the_command(tmp_path: Path) -> None:
    """`dovetail merge --round-float32` rounds all."""
    merged(tmp_path, [model(1), model(2)])
    outcome = dovetail("merge", tmp_path / "recipe.yml", tmp_path / "rounded", "--round-float32", "--quiet")
    assert (0, "") == (outcome.code, outcome.err)
    assert BF16 == read_output(tmp_path / "rounded")[BIAS].dtype

"""Recipes as people bring them from mergekit: whole plans and merges, from the text to the output."""

from __future__ import annotations

import pytest
import yaml

from dovetail.engine import PlanOptions, merge, plan
from dovetail.engine.actions.forecasts import plan_stages
from dovetail.engine.errors import RecipeError
from tests.checkpoints import read_output
from tests.engine.awkward import same_bits
from tests.engine.command import dovetail
from tests.engine.conftest import Family

SAID = (
    "line 4: parameters.density has no effect on linear; ignored, as mergekit ignores it",
    "line 5: output_dir is unknown; ignored, as mergekit ignores it",
)


@pytest.fixture
def odd(family: Family) -> Family:
    """Write a recipe with two keys that have no effect, and values in quotes."""
    models = [{"model": str(path), "parameters": {"weight": " 0.5 "}} for path in (family.math, family.code)]
    family.recipe_path.write_text(
        f"merge_method: linear\nmodels: {models}\ndtype: float32\n"
        "parameters: {normalize: 'true', density: 0.5}\noutput_dir: x\n"
    )
    return family


def test_plan_and_merge_say_all_keys_without_effect(odd: Family) -> None:
    """Both commands warn of each, and the merge is that of the recipe without them, with the same plan."""
    shown = dovetail("plan", odd.recipe_path)
    assert (0, [f"warning: {text}" for text in SAID]) == (shown.code, shown.out.splitlines()[-2:])
    merged = dovetail("merge", odd.recipe_path, odd.out, "--quiet")
    assert (0, "".join(f"warning: {text}\n" for text in SAID)) == (merged.code, merged.err)
    plain = yaml.safe_load(odd.recipe_path.read_text())
    del plain["output_dir"], plain["parameters"]["density"]
    merge(plain, odd.home / "plain")
    assert plan(plain).hash == plan(odd.recipe_path).hash
    for name, values in read_output(odd.home / "plain").items():
        assert same_bits(values, read_output(odd.out)[name]), name


def test_strict_refuses_them_all_at_once(odd: Family) -> None:
    """With --strict, and with strict in Python, they are one error that lists all, and nothing is made."""
    expected = (
        f"{odd.recipe_path}: line 4: parameters.density has no effect on linear, line 5: output_dir is unknown; "
        "expected only keys that have an effect; correct or remove them, or leave --strict out"
    )
    for command in (("plan", odd.recipe_path), ("merge", odd.recipe_path, odd.out)):
        outcome = dovetail(*command, "--strict")
        assert (2, f"error: {expected}\n") == (outcome.code, outcome.err)
    for call in (plan, plan_stages):
        with pytest.raises(RecipeError) as caught:
            call(odd.recipe_path, PlanOptions(strict=True))
        assert expected == str(caught.value)
    with pytest.raises(RecipeError):
        merge(odd.recipe_path, odd.out, PlanOptions(strict=True))
    assert not odd.out.exists()

"""Recipes of mixtures of experts, as mergekit-moe reads them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.moe import load_moe_recipe
from dovetail.engine.recipe.unused import notes

DOCUMENTED = """
base_model: path/to/self_attn_donor
gate_mode: hidden # one of "hidden", "cheap_embed", or "random"
dtype: bfloat16 # output dtype (float32, float16, or bfloat16)
## (optional)
# experts_per_token: 2
experts:
  - source_model: expert_model_1
    positive_prompts:
      - "This is a prompt that is demonstrative of what expert_model_1 excels at"
    ## (optional)
    # negative_prompts:
  - source_model: expert_model_2
    positive_prompts: [another]
    negative_prompts:
      - "This is a prompt expert_model_1 should not be used for"
"""
"""In the form that mergekit's documentation shows."""


def changed(**changes: Any) -> str:
    """Write the documented recipe with other keys."""
    return yaml.safe_dump({**yaml.safe_load(DOCUMENTED), **changes})


def test_the_documented_form() -> None:
    """It is read as it is, defaults included."""
    recipe = load_moe_recipe(DOCUMENTED)
    assert ("hidden", "bfloat16", 2, ()) == (
        recipe.gate_mode, recipe.dtype, recipe.experts_per_token, recipe.shared_experts,
    )  # fmt: skip
    assert ["path/to/self_attn_donor", "expert_model_1", "expert_model_2"] == list(map(str, recipe.references()))
    assert 1 == len(recipe.experts[1].negative_prompts)


def test_keys_without_effect() -> None:
    """They are said, with their lines, and not read; slips in the others' names are errors."""
    text = DOCUMENTED.replace("dtype: bfloat16", "dype: bfloat16") + "    weight: 1\ntokenizer_source: union\n"
    recipe = load_moe_recipe(text)
    assert recipe.dtype is None
    assert (
        "line 4: dype is unknown and has no effect; did you mean 'dtype'?",
        "line 17: experts[1].weight is unknown; ignored, as mergekit ignores it",
        "line 18: tokenizer_source is unknown; ignored, as mergekit ignores it",
    ) == notes(recipe.unused, recipe.origin)
    with pytest.raises(RecipeError, match=r"experts\[0\]\.positive_prompt is an unknown key"):
        load_moe_recipe(DOCUMENTED.replace("positive_prompts:", "positive_prompt:", 1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"gate_mod": "random"}, "gate_mode"),
        ({"gate_mode": "best"}, "gate_mode"),
        ({"experts_per_token": 3}, "experts_per_token is 3"),
        ({"experts_per_token": 0}, "experts_per_token is 0"),
        ({"experts": []}, "experts"),
        ({"dtype": "bf"}, "dtype"),
        ({"experts": [{"source_model": "a"}, {"source_model": "b"}]}, "positive_prompts"),
        ({"experts": [{"source_model": each, "positive_prompts": ["x"]} for each in "ab"]}, "same prompts"),
        ({"experts": [{"source_model": "a", "positive_prompts": ["x"], "noise_scale": 0.1}] * 2}, "noise_scale"),
    ],
)
def test_mistakes(changes: dict[str, Any], expected: str) -> None:
    """What cannot be is an error that names the key."""
    with pytest.raises(RecipeError, match=expected):
        load_moe_recipe(changed(**changes))


def test_random_gates_need_no_prompts() -> None:
    """Prompts matter to gates that are made from them alone."""
    experts = [{"source_model": "a"}, {"source_model": "b", "positive_prompts": None}]
    assert not load_moe_recipe(changed(gate_mode="random", experts=experts)).needs_prompts

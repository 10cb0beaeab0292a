"""Random recipes that both Dovetail and mergekit accept, with slices, gradients, filters and every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.golden.checkpoints import ARCHITECTURES, make_tensors, write
from tests.oracles.values import BASELESS, COUNTS, EITHER, PER_MODEL, VALUES, between

SELECTING = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion")
"""Methods that select by magnitude. In 16 bits many magnitudes are equal, and mergekit takes any of them."""
REQUIRED = ("weight", "t")
"""Parameters without a default."""
MOST = 4
"""Models of a family, beside its base."""
WHOLE = ("max_iter",)
"""Parameters that cannot be gradients, because mergekit requires whole numbers at every layer."""


@dataclass(frozen=True)
class Family:
    """A base model and its fine-tunes."""

    architecture: str
    """Name of the architecture, which decides the names of the tensors."""
    layers: int
    """Number of layers."""
    dtype: str
    """Dtype in which the models are stored."""
    filters: tuple[str, ...]
    """Parts of tensor names, for filters."""

    @property
    def base(self) -> str:
        """Folder of the base model."""
        return f"{self.architecture}{self.layers}-base"

    @property
    def tunes(self) -> list[str]:
        """Folders of the fine-tunes."""
        return [f"{self.architecture}{self.layers}-{letter}" for letter in "abcd"]

    def make(self, folder: Path) -> None:
        """Write the checkpoints of all models into a folder."""
        shapes, base = ARCHITECTURES[self.architecture](self.layers), None
        sizes = (0, 0.02, 0.03, 0.0005, 0.4)
        for number, (name, size) in enumerate(zip((self.base, *self.tunes), sizes, strict=True)):
            tensors = make_tensors(shapes, 100 * self.layers + number, size, base, self.dtype)
            base = tensors if base is None else base
            write(folder / name, self.architecture, self.layers, tensors)


FAMILIES = (
    Family("llama", 4, "float32", ("mlp", "self_attn", "layernorm", "q_proj", "layers.1.", "*")),
    Family("llama", 1, "float32", ("mlp", "norm", "lm_head")),
    Family("gpt2", 3, "float32", ("attn", "bias", "h.2", "wte")),
    Family("mamba", 3, "float32", ("mixer", "conv1d", "norm", "layers.0")),
    Family("llama", 2, "bfloat16", ("proj", "input_layernorm", "embed")),
    Family("mamba", 2, "float16", ("weight", "A_log")),
)


@st.composite
def parameter(draw: st.DrawFn, name: str, values: st.SearchStrategy[Any], family: Family) -> Any:
    """Draw a value, a gradient, or a list of filters that ends with a value for all tensors."""
    gradients = name not in WHOLE

    def one() -> Any:
        if gradients and draw(st.integers(0, 2)) == 0:
            return draw(st.lists(values, min_size=2, max_size=4))
        return draw(values)

    if draw(st.integers(0, 2)):
        return one()
    names = draw(st.lists(st.sampled_from(family.filters), min_size=1, max_size=2, unique=True))
    return [*({"filter": each, "value": one()} for each in names), {"value": one()}]


@st.composite
def recipes(draw: st.DrawFn, method: str, most: int) -> dict[str, Any]:
    """Draw a recipe of a method with at most so many models, beside the base, which are given by relative paths."""
    family = draw(st.sampled_from([each for each in FAMILIES if each.dtype == "float32" or method not in SELECTING]))
    least, greatest = COUNTS.get(method, (1, 4))
    models = draw(st.permutations(family.tunes))[: draw(st.integers(least, min(greatest, most)))]
    based = method not in BASELESS and (method not in EITHER or draw(st.booleans()))
    if method in ("linear", "karcher") and draw(st.booleans()):
        models = [family.base, *models][: most if most < MOST else None]
    values = dict(VALUES[method])
    if "scale" in values:
        values["scale"] = between(-1, 2)
    own = PER_MODEL[method]
    everywhere = [key for key in own if draw(st.integers(0, 3)) == 0]

    def drawn(keys: Sequence[str], all_of_them: bool) -> dict[str, Any]:
        return {
            key: draw(parameter(key, values[key], family))
            for key in keys
            if (all_of_them and key in REQUIRED) or draw(st.booleans())
        }

    def entry(model: str) -> dict[str, Any]:
        mine = drawn([key for key in own if key not in everywhere], True) if model != family.base or not based else {}
        return {"model": model, "parameters": mine} if mine else {"model": model}

    recipe: dict[str, Any] = {"merge_method": method, "dtype": "float32"}
    if based:
        recipe["base_model"] = family.base
    if found := drawn([key for key in values if key not in own or key in everywhere], True):
        recipe["parameters"] = found
    if draw(st.booleans()):
        listed = [family.base, *models] if based and draw(st.booleans()) else models
        recipe["models"] = [entry(model) for model in draw(st.permutations(listed))]
        return recipe
    recipe["slices"] = []
    for _ in range(draw(st.integers(1, 3))):
        length = draw(st.integers(1, family.layers))
        sources = []
        for model in draw(st.permutations([family.base, *models] if based else models)):
            start = draw(st.integers(0, family.layers - length))
            sources.append({**entry(model), "layer_range": [start, start + length]})
        piece: dict[str, Any] = {"sources": sources}
        if found := drawn([key for key in values if key not in own or key in everywhere], False):
            piece["parameters"] = found
        recipe["slices"].append(piece)
    return recipe


def random_recipes(method: str, count: int, seed: int, most: int = MOST) -> list[dict[str, Any]]:
    """Draw recipes of a method, of at most so many models; the same seed gives the same recipes."""
    found: dict[str, dict[str, Any]] = {}

    @hypothesis.seed(seed)
    @settings(
        max_examples=2 * count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(recipes(method, most))
    def collect(recipe: dict[str, Any]) -> None:
        found[yaml.safe_dump(recipe)] = recipe

    collect()
    # The last ones, because Hypothesis begins with the simplest.
    return list(found.values())[-count:]

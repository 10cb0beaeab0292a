"""Random recipes beside mergekit's own planner: the same output tensors, sources, order and parameters.

    python bench/recipe_check.py                      # 500 recipes
    python bench/recipe_check.py --recipes 5000 --python /path/to/an/environment/with/mergekit/bin/python

The recipes are those of the tests (``tests/engine/recipe/strategies.py``): models, slices and modules of six families,
with gradients and filters at every level. One thing is known to differ and is counted apart: where the first and the
last slice have different numbers of sources, mergekit merges what comes after the layers from too few of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import workplace
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(workplace.HERE.parent))

from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.recipe import Expansion, expand, load_recipe
from tests.engine.recipe.rows import no_program
from tests.engine.recipe.strategies import RandomRecipe, Taker, recipes

SCRIPT = workplace.HERE / "mergekit_plans.py"
TAKERS = (
    Taker(
        "ties",
        "origin",
        (1, 3),
        {"weight": "float", "density": "float"},
        {"normalize": "bool", "lambda": "float"},
        frozenset({"weight"}),
    ),
    Taker("linear", "member", (1, 4), {"weight": "float"}, {"normalize": "bool"}, frozenset({"weight"})),
    Taker("slerp", "pair", (1, 1), {}, {"t": "float"}, frozenset({"t"})),
    Taker("passthrough", "member", (1, 1), {"scale": "float"}),
    Taker("nuslerp", "optional", (2, 2), {"weight": "float"}, {"nuslerp_flatten": "bool"}, frozenset({"weight"})),
)
"""One method of mergekit's for each kind of base model."""
DEFAULTS = {"density": 1.0, "normalize": True, "lambda": 1.0, "scale": None, "nuslerp_flatten": True}


def row(taker: Taker) -> Method:
    """Make the row of a table of methods that takes what mergekit's method takes."""
    kinds: dict[str, Any] = {**taker.model_parameters, **taker.merge_parameters}
    parameters = tuple(
        Parameter(
            name,
            kind,
            REQUIRED if name in taker.required else DEFAULTS[name],
            "",
            "model" if name in taker.model_parameters else "merge",
        )
        for name, kind in kinds.items()
    )
    base: Any = taker.base
    return Method(taker.name, "", "", base, parameters, no_program, *taker.models)


def draw(count: int, number: int) -> list[RandomRecipe]:
    """Draw random recipes."""
    drawn: list[RandomRecipe] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(TAKERS))
    def collect(recipe: RandomRecipe) -> None:
        drawn.append(recipe)

    collect()
    return drawn


def described(recipe: RandomRecipe) -> dict[str, Any]:
    """Write down a recipe and the names of its tensors for the other side."""
    architecture = recipe.architecture
    return {
        "document": recipe.document,
        "before": dict(architecture.before),
        "after": dict(architecture.after),
        "stacks": [vars(stack) for stack in architecture.stacks],
        "layers": dict(recipe.layers["base"]),
    }


def ours(recipe: RandomRecipe, table: dict[str, Method]) -> Expansion:
    """Expand a recipe."""
    loaded = load_recipe(yaml.safe_dump(recipe.document, sort_keys=False), table)
    catalogues = {ref: recipe.catalogues[str(ref)] for ref in loaded.references()}
    return expand(loaded, table[recipe.taker.name], catalogues)


def compare(expansion: Expansion, theirs: dict[str, Any], recipe: RandomRecipe) -> tuple[list[str], int]:
    """Give the names of tensors that differ, and how many are of the kind known to differ."""
    differ = sorted(theirs.keys() ^ {spec.name for spec in expansion.tensors})
    known = 0
    for spec in expansion.tensors:
        other = theirs.get(spec.name)
        if other is None:
            continue
        refs = expansion.checkpoints
        apart = spec.base is not None
        base = [item[:2] for item in other["inputs"] if apart and item[0] == other["base"]]
        models = [item for item in other["inputs"] if not (apart and item[0] == other["base"])]
        mine = [[str(refs[item.checkpoint]), item.name] for item in spec.inputs]
        if spec.name in recipe.architecture.after and len(base) + len(models) < apart + len(mine):
            known += 1
            continue
        same = mine == [item[:2] for item in models] and _covers(other["parameters"], spec.parameters)
        same &= not apart or base == [[str(refs[spec.base.checkpoint]), spec.base.name]]
        for values, item in zip(spec.model_parameters, models, strict=False):
            same &= _covers(item[2], values)
        if not same:
            differ.append(spec.name)
    return differ, known


def _covers(theirs: dict[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether the other side has the same values; it has parameters that are not of the recipes drawn too."""
    return all(key in theirs and theirs[key] == value for key, value in mine.items() if value is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", type=Path, help="Python of an environment that has mergekit; else one is made")
    options = parser.parse_args()
    if options.python is None:
        from peers import peer_python

        options.python = peer_python()
    drawn = draw(options.recipes, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipes.json"
        path.write_text(json.dumps([described(recipe) for recipe in drawn]))
        # -P: scripts beside this one have names of packages that mergekit looks for.
        said = subprocess.run([options.python, "-P", SCRIPT, path], check=True, stdout=subprocess.PIPE, text=True)
    table = {taker.name: row(taker) for taker in TAKERS}
    tensors = known = 0
    for recipe, theirs in zip(drawn, json.loads(said.stdout), strict=True):
        expansion = ours(recipe, table)
        differ, unlike = compare(expansion, theirs, recipe)
        tensors, known = tensors + len(expansion.tensors), known + unlike
        if differ:
            print(yaml.safe_dump(recipe.document, sort_keys=False))
            sys.exit(f"differ: {', '.join(differ)}")
    print(f"{len(drawn)} recipes, {tensors} tensors: as mergekit's, but for {known} of the kind known to differ")


if __name__ == "__main__":
    main()

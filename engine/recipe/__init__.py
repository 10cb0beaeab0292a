"""Recipes: mergekit's YAML in, every output tensor with its sources and parameters out.

The modules in the order of the data: `reader` (text to plain values), `unused` with `keys` (keys without effect left
out), `schema` with `model_ref`, `settings` and `scalars` (typed recipe), `values` (parameters checked against the
method), `groups` (which models go where), `layers` and `modules` (layers and parts from names), `tied` (heads that are
embeddings), `resolver` (parameters of a tensor), `specs` with `gaps` (tensors that some checkpoints lack or have in
other shapes), `slices` and `expand` (every tensor). `load` does the first five, `stages` does it for recipes of several
documents, and `origin`, `places` and `problems` serve the error messages.
"""

from __future__ import annotations

from dovetail.engine.recipe.expand import Expansion, expand
from dovetail.engine.recipe.load import RecipeSource, load_recipe
from dovetail.engine.recipe.model_ref import ModelRef, resolve_model_path
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.slices import StackedLayers
from dovetail.engine.recipe.specs import SourceTensor, TensorSpec

__all__ = [
    "Expansion",
    "ModelRef",
    "Recipe",
    "RecipeSource",
    "SourceTensor",
    "StackedLayers",
    "TensorSpec",
    "expand",
    "load_recipe",
    "resolve_model_path",
]

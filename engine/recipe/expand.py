"""A recipe and the checkpoints' tensor names in, every output tensor with its sources and parameters out.

Output tensors are those of the base model, or of the first model without one. For whole models they keep its
file order. For slices, tensors outside the layers are merged from the first slice's sources if they come
before the layers and from the last slice's if they come after, and stand there in the output too. No tensor
data is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dovetail.engine.methods.table import Method
from dovetail.engine.recipe.groups import make_groups
from dovetail.engine.recipe.layers import find_stacks, layer_fraction
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.resolver import Resolver
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.slices import expand_slices
from dovetail.engine.recipe.specs import Catalogue, GroupWriter, Output, TensorSpec


@dataclass(frozen=True, slots=True)
class Expansion:
    """All that a recipe asks for."""

    checkpoints: tuple[ModelRef, ...]
    """Every checkpoint that the recipe names, the base model first."""
    tensors: tuple[TensorSpec, ...]
    """The output's tensors, in its order."""
    layer_count: int
    """Layers of the output; of its longest stack if it has several, 0 if none."""
    warnings: tuple[str, ...]
    """What a person should know."""


def expand(recipe: Recipe, method: Method, catalogues: Mapping[ModelRef, Catalogue]) -> Expansion:
    """Say for every output tensor what it is merged from, and with which parameters.

    Parameters
    ----------
    recipe
        The recipe.
    method
        The row of its `merge_method`.
    catalogues
        Tensors of every checkpoint in `recipe.references()`.

    Raises
    ------
    RecipeError
        The recipe does not fit the method, or its layers are not there.
    TensorMismatchError
        A tensor is missing in a checkpoint, or its shape differs.

    """
    groups, warnings = make_groups(recipe, method)
    output = Output(recipe.references(), catalogues)
    writers = [GroupWriter(output, group, Resolver(group, method, recipe.origin)) for group in groups]
    if groups[0].reference.stop is None:
        layer_count = _expand_whole(output, writers[0])
    else:
        layer_count = expand_slices(output, writers, recipe.origin)
    warnings += output.warnings()
    return Expansion(output.checkpoints, tuple(output.specs.values()), layer_count, tuple(warnings))


def _expand_whole(output: Output, writer: GroupWriter) -> int:
    catalogue = output.catalogues[writer.group.reference.ref]
    stacks = find_stacks(catalogue)
    for name in catalogue:
        layer = stacks.parsed.get(name)
        if layer is None:
            writer.add(name, 0.0, None)
        else:
            writer.add(name, layer_fraction(layer.number, stacks.lengths[layer.stack]), layer.number)
    for source in writer.group.models:
        output.note_unused(source.ref, [n for n in output.catalogues[source.ref] if n not in catalogue])
    return stacks.longest

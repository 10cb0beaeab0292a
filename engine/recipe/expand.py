"""A recipe and the checkpoints' tensor names in, every output tensor with its sources and parameters out.

Output tensors are those of the base model, or of the first model without one. For whole models they keep its
file order. For slices, tensors outside the layers are merged from the first slice's sources if they come
before the layers and from the last slice's if they come after, and stand there in the output too. Modules follow
each other in the recipe's order; tensors that belong to none are taken from the base model, or the first model, as
they are. No tensor data is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dovetail.engine.methods.method import Method
from dovetail.engine.recipe.gaps import Gaps
from dovetail.engine.recipe.groups import Group, Part, make_parts
from dovetail.engine.recipe.layers import LayerName, Stacks, find_stacks, layer_fraction
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.modules import Modules
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.prediction import UNKNOWN, Depth
from dovetail.engine.recipe.resolver import Resolver
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.shared import Shared, find_shared
from dovetail.engine.recipe.slices import StackedLayers, expand_slices
from dovetail.engine.recipe.specs import Catalogue, GroupWriter, Output, TensorSpec
from dovetail.engine.recipe.tied import HeadComparison, Heads, find_heads
from dovetail.io.errors import TensorMismatchError


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
    stacks: tuple[StackedLayers, ...] = ()
    """The stacks of layers that were put together from slices."""
    untied: frozenset[ModelRef] = frozenset()
    """Checkpoints that tie their head to their embedding, or do not say, although the output has a separate head."""
    retied: frozenset[ModelRef] = frozenset()
    """Checkpoints that store a head and do not say that it is tied, although the output's is."""


def expand(
    recipe: Recipe,
    method: Method,
    catalogues: Mapping[ModelRef, Catalogue],
    tied: Mapping[ModelRef, bool | None] | None = None,
    *,
    strict: bool = False,
    allow_partial: bool = False,
    depths: Mapping[ModelRef, Depth] | None = None,
    is_copy: HeadComparison | None = None,
) -> Expansion:
    """Say for every output tensor what it is merged from, and with which parameters.

    Parameters
    ----------
    recipe
        The recipe.
    method
        The row of its `merge_method`.
    catalogues
        Tensors of every checkpoint in `recipe.named()`.
    tied
        Whether a checkpoint's configuration says that its head is its embedding; None where it does not say.
    strict
        Whether it is an error if some checkpoints lack a tensor or have it in another shape; see `gaps`.
    allow_partial
        Whether a model may give less than half of its elements; see `gaps`.
    depths
        What the checkpoints' configurations say of the numbers of layers; checkpoints may be missing.
    is_copy
        Compares two tensors of a checkpoint, such as a head and its embedding; asked only where the answer counts.

    Raises
    ------
    RecipeError
        The recipe does not fit the method, or its layers or modules are not there.
    TensorMismatchError
        A tensor is missing or has another shape and `strict` is set, or a model has nothing to merge, or less
        than half of its elements and `allow_partial` is not set.

    """
    parts, warnings = make_parts(recipe, method)
    depths = depths or {}
    heads = find_heads(catalogues, tied or {}, is_copy)
    shared = find_shared(catalogues, heads, is_copy)
    gaps = Gaps(shared.catalogues, strict=strict, allow_partial=allow_partial)
    output = Output(recipe.named(), shared.catalogues, gaps)
    modules = Modules(parts, shared.catalogues, recipe.origin) if recipe.modules else None
    stacks, layer_count = [], 0
    for part in parts:
        writers = [
            GroupWriter(output, group, Resolver(group, method, recipe.origin), method.min_models)
            for group in part.groups
        ]
        refs = dict.fromkeys(source.ref for group in part.groups for source in (group.reference, *group.sources))
        names: dict[ModelRef, Iterable[str]] = {
            ref: modules.select(output.catalogues[ref], part.module) if modules else output.catalogues[ref]
            for ref in refs
        }
        if part.sliced:
            made = expand_slices(output, writers, names, part.module, recipe.origin, depths)
            stacks.append(made)
            layer_count = max(layer_count, len(made.layers))
        else:
            layer_count = max(layer_count, _expand_whole(output, writers[0], names, depths))
    if modules:
        warnings += _copy_the_rest(output, modules)
    _check_merged(output, parts)
    output.gaps.check_shares()
    warnings += [*heads.notes, *shared.notes, *output.notes, *output.gaps.warnings()]
    _read_instead(output, heads, shared)
    return Expansion(
        output.checkpoints,
        tuple(output.specs.values()),
        layer_count,
        tuple(warnings),
        tuple(stacks),
        frozenset({ref for name in output.specs.keys() & heads.untied.keys() for ref in heads.untied[name]}),
        heads.retied,
    )


def _read_instead(output: Output, heads: Heads, shared: Shared) -> None:
    """Let stored tensors be read in the place of those that are not, and let copies be merged as what they copy."""
    for made in (heads, shared):
        names = {name for each in made.stand_ins.values() for name in each}
        for name, spec in output.specs.items() if names else ():
            if spec.reference.name in names:
                output.specs[name] = spec.read_instead(made.stand_ins, output.checkpoints)
    for name, original in shared.copies.items():
        copied, kept = output.specs.get(name), output.specs.get(original)
        # Slices may have moved another layer to either name.
        if copied and kept and (copied.reference.name, kept.reference.name) == (name, original):
            output.specs[name] = kept._replace(name=name, layer=copied.layer, like=kept.name)


def _expand_whole(
    output: Output, writer: GroupWriter, names: Mapping[ModelRef, Iterable[str]], depths: Mapping[ModelRef, Depth]
) -> int:
    group = writer.group
    ours = names[group.reference.ref]
    stacks = find_stacks(ours, depths.get(group.reference.ref, UNKNOWN))
    others = _stacks_of_other_lengths(stacks, group, names, depths)
    taken = set(output.catalogues[group.reference.ref])
    for name in ours:
        layer = stacks.parsed.get(name)
        fraction = 0.0
        number: int | None = None
        if layer is not None:
            fraction, number = layer_fraction(layer.number, stacks.lengths[layer.stack]), layer.number
        elif name in stacks.beyond:
            fraction, layer = 1.0, stacks.beyond[name]
        if others and layer is not None:
            theirs = [_same_layer(layer, stacks, other) for other in others]
            taken.update(theirs)
            writer.add_renamed(name, name, theirs, fraction, number)
        else:
            writer.add(name, fraction, number)
    for source in group.models:
        unused = [name for name in names[source.ref] if name not in taken]
        output.gaps.unused(source.ref, unused, group.reference.ref)
    return stacks.longest


def _stacks_of_other_lengths(
    ours: Stacks, group: Group, names: Mapping[ModelRef, Iterable[str]], depths: Mapping[ModelRef, Depth]
) -> list[Stacks]:
    """Give the stacks of all sources, if prediction layers follow some that are longer than others; else none."""
    numbered = any(layer is not None for layer in ours.beyond.values())
    if not numbered and not any(depths.get(source.ref, UNKNOWN).predictors for source in group.sources):
        return []
    found = [find_stacks(names[source.ref], depths.get(source.ref, UNKNOWN)) for source in group.sources]
    return found if any(stacks.lengths != ours.lengths for stacks in found) else []


def _same_layer(layer: LayerName, ours: Stacks, theirs: Stacks) -> str:
    """Name a layer's tensor in a model of another number of layers, where prediction layers have other numbers."""
    name, end = layer.at(layer.number), ours.lengths[layer.stack]
    other = theirs.lengths.get(layer.stack, end)
    if layer.number >= end:
        return layer.at(layer.number - end + other)
    return f"{name} (there for multi-token prediction)" if name in theirs.beyond else name


def _copy_the_rest(output: Output, modules: Modules) -> list[str]:
    """Take what belongs to no module from the base model, or the first model, as it is."""
    rest = modules.select(output.catalogues[output.checkpoints[0]], None)
    for name in rest:
        output.copy(name, 0, None)
    if not rest:
        return []
    some = ", ".join(shown(name) for name in rest[:3]) + (", ..." if len(rest) > 3 else "")
    count = f"{len(rest)} tensor" + "s" * (len(rest) > 1)
    return [f"{count} in none of the modules and taken from {output.checkpoints[0]}: {some}"]


def _check_merged(output: Output, parts: Sequence[Part]) -> None:
    """Refuse a model that has nothing to merge: it is of another architecture."""
    for ref in output.gaps.refs() - output.merged:
        reference = parts[0].groups[0].reference.ref
        raise TensorMismatchError(
            f"checkpoint {ref} has no tensor of the name and shape that {reference} has",
            "checkpoints of one architecture and size",
            "remove it from the recipe",
        )

"""Stacking layers of several checkpoints: the ``slices`` of a recipe.

Each slice's layers are numbered on from the last slice's. A gradient spans the layers of its slice, not of
the whole output, and a slice of one layer takes its last value; both as in mergekit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dovetail.engine.recipe.groups import Source
from dovetail.engine.recipe.layers import LayerName, Stacks, comes_after_layers, find_stacks, layer_fraction
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path, shown
from dovetail.engine.recipe.specs import GroupWriter, Output


class _Layout(NamedTuple):
    """A checkpoint's tensors, sorted by layer."""

    stacks: Stacks
    layers: dict[int, list[LayerName]]


_Layouts = dict[ModelRef, _Layout]


def expand_slices(output: Output, writers: Sequence[GroupWriter], origin: Origin) -> int:
    """Add the tensors of all slices to the output, with those before and after the layers.

    Parameters
    ----------
    output
        The output.
    writers
        One for each slice.
    origin
        The recipe, for errors.

    Returns
    -------
    int
        Number of layers of the output.

    Raises
    ------
    RecipeError
        A checkpoint does not have the layers, or has several stacks of them.
    TensorMismatchError
        A tensor is missing in a checkpoint, or its shape differs.

    """
    layouts: _Layouts = {}
    for ref in dict.fromkeys(source.ref for writer in writers for source in writer.group.sources):
        stacks = find_stacks(output.catalogues[ref])
        layouts[ref] = _Layout(stacks, stacks.by_layer())
    for writer in writers:
        for source in writer.group.sources:
            first = layouts[writers[0].group.reference.ref].stacks
            _check_layers(source, layouts[source.ref].stacks, first, origin)
    _add_loose(writers[0], layouts, after=False)
    number = 0
    for writer in writers:
        number += _add_layers(output, writer, layouts, number)
    _add_loose(writers[-1], layouts, after=True)
    for ref, layout in layouts.items():
        output.note_unused(ref, [name for name in layout.stacks.loose if name not in output.specs])
    return number


def _check_layers(source: Source, stacks: Stacks, first: Stacks, origin: Origin) -> None:
    where = (*source.where, "layer_range")
    if list(stacks.lengths) != list(first.lengths) or len(stacks.lengths) != 1:
        found = ", ".join(f"{name}* ({count})" for name, count in stacks.lengths.items()) or "none"
        raise origin.error(
            where,
            f"{key_path(source.where)}: the stacks of layers in {source.ref} are {shown(found)}",
            "one stack, of the same name in every model",
            "merge whole models by 'models' instead",
        )
    if source.stop is not None and source.stop > stacks.longest:
        raise origin.error(
            where,
            f"{key_path(where)} is [{source.start}, {source.stop}]",
            f"at most {stacks.longest}, the number of layers of {source.ref}",
        )


def _add_layers(output: Output, writer: GroupWriter, layouts: _Layouts, first: int) -> int:
    """Add the layers of one slice, numbered from `first`; return how many there are."""
    reference, sources = writer.group.reference, writer.group.sources
    count = (reference.stop or 0) - reference.start
    for offset in range(count):
        suffixes = set()
        for layer in layouts[reference.ref].layers.get(reference.start + offset, ()):
            suffixes.add(layer.suffix)
            writer.add_renamed(
                layer.at(first + offset),
                layer.at(reference.start + offset),
                [layer.at(source.start + offset) for source in sources],
                layer_fraction(offset, count),
                first + offset,
            )
        for source in sources:
            others = layouts[source.ref].layers.get(source.start + offset, ())
            output.note_unused(source.ref, [x.at(x.number) for x in others if x.suffix not in suffixes])
    return count


def _add_loose(writer: GroupWriter, layouts: _Layouts, *, after: bool) -> None:
    """Add the tensors before or after the layers; gradients are at their first value there."""
    for name in layouts[writer.group.reference.ref].stacks.loose:
        if comes_after_layers(name) == after:
            writer.add(name, 0.0, None)

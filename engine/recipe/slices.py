"""Stacking layers of several checkpoints: the ``slices`` of a recipe.

Each slice's layers are numbered on from the last slice's. A gradient spans the layers of its slice, not of
the whole output, and a slice of one layer takes its last value; both as in mergekit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dovetail.engine.recipe.groups import Source
from dovetail.engine.recipe.layers import LayerName, Stacks, comes_after_layers, find_stacks, layer_fraction
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path, shown
from dovetail.engine.recipe.specs import GroupWriter, Output


@dataclass(frozen=True, slots=True)
class StackedLayers:
    """A stack of layers of the output that was put together from slices."""

    stack: str
    """What its tensors' names begin with, such as ``model.layers.``."""
    module: str | None
    """Name of the recipe's module; None without modules."""
    lengths: tuple[int, ...]
    """Number of layers of this stack in every checkpoint of the expansion; 0 where it is not used."""
    layers: tuple[tuple[int, int], ...]
    """For each layer of the output, the checkpoint that decides its tensors, and the layer's number there."""


class _Layout(NamedTuple):
    """A checkpoint's tensors, sorted by layer."""

    stacks: Stacks
    layers: dict[int, list[LayerName]]


_Layouts = dict[ModelRef, _Layout]


def expand_slices(
    output: Output,
    writers: Sequence[GroupWriter],
    names: Mapping[ModelRef, Iterable[str]],
    module: str | None,
    origin: Origin,
) -> StackedLayers:
    """Add the tensors of all slices to the output, with those before and after the layers.

    Parameters
    ----------
    output
        The output.
    writers
        One for each slice.
    names
        For each checkpoint, the tensors that the slices are of: all, or those of a module.
    module
        Name of the module, if any.
    origin
        The recipe, for errors.

    Returns
    -------
    StackedLayers
        Where the layers of the output came from.

    Raises
    ------
    RecipeError
        A checkpoint does not have the layers, or has several stacks of them.
    TensorMismatchError
        A tensor does not stand alike in all checkpoints, and the merge is strict.

    """
    layouts: _Layouts = {}
    for ref in dict.fromkeys(source.ref for writer in writers for source in writer.group.sources):
        stacks = find_stacks(names[ref])
        layouts[ref] = _Layout(stacks, stacks.by_layer())
    first = layouts[writers[0].group.reference.ref].stacks
    for writer in writers:
        for source in writer.group.sources:
            _check_layers(source, layouts[source.ref].stacks, first, module, origin)
    _add_loose(writers[0], layouts, after=False)
    layers: list[tuple[int, int]] = []
    for writer in writers:
        reference = writer.group.reference
        index, count = output.checkpoints.index(reference.ref), (reference.stop or 0) - reference.start
        _add_layers(output, writer, layouts, len(layers), count)
        layers += [(index, reference.start + offset) for offset in range(count)]
    _add_loose(writers[-1], layouts, after=True)
    for ref, layout in layouts.items():
        output.gaps.unused(ref, [name for name in layout.stacks.loose if name not in output.specs])
    lengths = tuple(layouts[ref].stacks.longest if ref in layouts else 0 for ref in output.checkpoints)
    return StackedLayers(next(iter(first.lengths)), module, lengths, tuple(layers))


def _check_layers(source: Source, stacks: Stacks, first: Stacks, module: str | None, origin: Origin) -> None:
    where = (*source.where, "layer_range")
    if list(stacks.lengths) != list(first.lengths) or len(stacks.lengths) != 1:
        found = ", ".join(f"{name}* ({count})" for name, count in stacks.lengths.items()) or "none"
        place = f"module {module} of {source.ref}" if module else str(source.ref)
        raise origin.error(
            where,
            f"{key_path(source.where)}: the stacks of layers in {place} are {shown(found)}",
            "one stack, of the same name in every model",
            "say by 'modules' which slices are of which stack, or merge whole models by 'models'",
        )
    if source.stop is not None and source.stop > stacks.longest:
        raise origin.error(
            where,
            f"{key_path(where)} is [{source.start}, {source.stop}]",
            f"at most {stacks.longest}, the number of layers of {source.ref}",
        )


def _add_layers(output: Output, writer: GroupWriter, layouts: _Layouts, first: int, count: int) -> None:
    """Add the layers of one slice, numbered from `first`."""
    reference, sources = writer.group.reference, writer.group.sources
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
            output.gaps.unused(source.ref, [x.at(x.number) for x in others if x.suffix not in suffixes], reference.ref)


def _add_loose(writer: GroupWriter, layouts: _Layouts, *, after: bool) -> None:
    """Add the tensors before or after the layers; gradients are at their first value there."""
    for name in layouts[writer.group.reference.ref].stacks.loose:
        if comes_after_layers(name) == after:
            writer.add(name, 0.0, None)

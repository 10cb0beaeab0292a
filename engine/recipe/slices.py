"""Stacking layers of several checkpoints: the ``slices`` of a recipe.

Each slice's layers are numbered on from the last slice's. A gradient spans the layers of its slice, not of
the whole output, and a slice of one layer takes its last value; both as in mergekit.

Layers for multi-token prediction follow a model's last layer. They are kept, and numbered on from the output's last
layer, where the last slice ends with the last layer of its models; else they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dovetail.engine.recipe.groups import Source
from dovetail.engine.recipe.layers import (
    LayerName,
    Stacks,
    comes_after_layers,
    find_stacks,
    layer_fraction,
    parse_layer,
)
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path, shown
from dovetail.engine.recipe.prediction import UNKNOWN, Depth
from dovetail.engine.recipe.specs import GroupWriter, Output
from dovetail.engine.recipe.stacking import check_stacked


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
    predictors: tuple[int, ...] = ()
    """Number of multi-token-prediction layers in every checkpoint of the expansion; empty if none has any."""
    kept_predictors: int = 0
    """Number of those in the output."""

    def predictors_of(self, checkpoint: int) -> int:
        """Give the number of prediction layers of a checkpoint."""
        return self.predictors[checkpoint] if self.predictors else 0


class _Layout(NamedTuple):
    """A checkpoint's tensors, sorted by layer."""

    stacks: Stacks
    layers: dict[int, list[LayerName]]

    @property
    def predictors(self) -> int:
        """Number of prediction layers, those that are stored apart and those that follow the stack together."""
        apart = [parse_layer(name) for name, layer in self.stacks.beyond.items() if layer is None]
        numbers = {(layer.stack, layer.number) for layer in apart if layer is not None}
        stack = next(iter(self.stacks.lengths), None)
        return len(numbers) + (0 if stack is None else self.stacks.predictors(stack))


_Layouts = dict[ModelRef, _Layout]

_PER_LAYER: Final = re.compile(r"(?:^|[._])per_(?:layer|block)(?:[._]|$)")
"""Tensors outside the layers that have rows or columns for each layer, as Gemma 3n's embeddings do."""


def expand_slices(
    output: Output,
    writers: Sequence[GroupWriter],
    names: Mapping[ModelRef, Iterable[str]],
    module: str | None,
    origin: Origin,
    depths: Mapping[ModelRef, Depth],
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
    depths
        What the checkpoints' configurations say of the numbers of layers.

    Returns
    -------
    StackedLayers
        Where the layers of the output came from.

    Raises
    ------
    RecipeError
        A checkpoint does not have the layers, or has several stacks of them.
    TensorMismatchError
        A checkpoint lacks a tensor or has it in another shape, and the merge is strict.

    """
    layouts: _Layouts = {}
    for ref in dict.fromkeys(source.ref for writer in writers for source in writer.group.sources):
        stacks = find_stacks(names[ref], depths.get(ref, UNKNOWN))
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
        if not count:
            output.notes.append(
                f"{key_path(reference.where)} takes no layer: its range is [{reference.start}, {reference.stop}], of "
                "which the second number is the first layer that is left out"
            )
    if not layers:
        raise origin.error(
            writers[0].group.where,
            f"the slices{f' of module {module}' if module else ''} take no layers at all",
            "at least one layer, as a range ends before its second number",
            "correct layer_range",
        )
    _check_stacked(output, writers, layouts)
    _note_per_layer(output, writers, layouts, layers)
    kept = _add_predictors(output, writers[-1], layouts, len(layers))
    _add_loose(writers[-1], layouts, after=True)
    for ref, layout in layouts.items():
        output.gaps.unused(ref, [name for name in layout.stacks.loose if name not in output.specs])
    lengths = tuple(layouts[ref].stacks.longest if ref in layouts else 0 for ref in output.checkpoints)
    predictors = tuple(layouts[ref].predictors if ref in layouts else 0 for ref in output.checkpoints)
    return StackedLayers(
        next(iter(first.lengths)), module, lengths, tuple(layers), predictors if any(predictors) else (), kept
    )


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
            "leave out the layers for multi-token prediction, which follow by themselves" if stacks.beyond else "",
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


def _check_stacked(output: Output, writers: Sequence[GroupWriter], layouts: _Layouts) -> None:
    """Compare the layers of all models with those of the model whose configuration the output has."""
    taken: dict[ModelRef, list[int]] = {}
    for writer in writers:
        reference = writer.group.reference
        taken.setdefault(reference.ref, []).extend(range(reference.start, reference.stop or 0))
    first = output.checkpoints[0]
    own = first if first in layouts else writers[0].group.reference.ref
    others = {
        ref: (numbers, layouts[ref].layers, output.catalogues[ref]) for ref, numbers in taken.items() if ref != own
    }
    if others:
        compared = own, layouts[own].layers, output.catalogues[own]
        gaps = output.gaps
        output.notes += check_stacked(compared, others, allow_partial=gaps.allow_partial, strict=gaps.strict)


def _note_per_layer(
    output: Output, writers: Sequence[GroupWriter], layouts: _Layouts, layers: Sequence[tuple[int, int]]
) -> None:
    """Name the tensors outside the layers that have a part for each layer, where layers move."""
    ref = writers[0].group.reference.ref
    if [number for _, number in layers] == list(range(layouts[ref].stacks.longest)):
        return
    for name in layouts[ref].stacks.loose:
        if _PER_LAYER.search(name):
            output.notes.append(
                f"{shown(name)} has a part for each layer, and slices move layers: it is merged as it is, and does not "
                "fit the output's layers"
            )


def _add_predictors(output: Output, writer: GroupWriter, layouts: _Layouts, count: int) -> int:
    """Add the prediction layers of the last slice's models after `count` layers, or say why not; give their number."""
    reference, sources = writer.group.reference, writer.group.sources
    layout = layouts[reference.ref]
    if not layout.stacks.beyond:
        having = next((ref for ref, other in layouts.items() if other.stacks.beyond), None)
        if having is not None:
            output.notes.append(
                f"the layers of {having} for multi-token prediction are left out: {reference.ref}, the first model of "
                "the last slice, has none"
            )
        return 0
    stack, end = next(iter(layout.stacks.lengths.items()))
    names = ", ".join(shown(name) for name in list(layout.stacks.beyond)[:2])
    text = f"{len(layout.stacks.beyond)} tensors of {reference.ref} for multi-token prediction ({names}, ...)"
    if reference.stop != end:
        output.notes.append(f"{text} are left out: they follow its last layer, with which the last slice does not end")
        return 0
    for name, layer in layout.stacks.beyond.items():
        if layer is None:
            writer.add(name, 1.0, None)
            continue
        ends = [layouts[source.ref].stacks.lengths[stack] for source in sources]
        theirs = [layer.at(layer.number - end + other) for other in ends]
        writer.add_renamed(layer.at(layer.number - end + count), name, theirs, 1.0, None)
    number = f", as layer {count} and on" if layout.stacks.predictors(stack) else ""
    output.notes.append(f"{text} are kept after the last layer{number}: they are in no slice and no gradient")
    return layout.predictors


def _add_loose(writer: GroupWriter, layouts: _Layouts, *, after: bool) -> None:
    """Add the tensors before or after the layers; gradients are at their first value there."""
    for name in layouts[writer.group.reference.ref].stacks.loose:
        if comes_after_layers(name) == after:
            writer.add(name, 0.0, None)

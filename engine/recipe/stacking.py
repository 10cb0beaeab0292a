"""Whether layers that slices take from several models can stand in one stack.

The output has the configuration of one model. Layers of another are of no use in it if their tensors have other shapes
than those of its own layers. If they have tensors that none of its own layers has, or lack some that all of its own
have, libraries leave these out, or make them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dovetail.engine.recipe.layers import LayerName
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.engine.text import counted
from dovetail.io.errors import TensorMismatchError

Layers = Mapping[int, Sequence[LayerName]]
"""Names of the tensors of each layer."""
Shapes = Mapping[str, tuple[int, ...]]


def check_stacked(
    own: tuple[ModelRef, Layers, Shapes],
    others: Mapping[ModelRef, tuple[Iterable[int], Layers, Shapes]],
    *,
    allow_partial: bool,
    strict: bool,
) -> list[str]:
    """Compare the layers that are taken from other models with those of the model whose configuration the output has.

    Parameters
    ----------
    own
        That model, with all of its layers and its tensors.
    others
        Other models, with the numbers of the layers that are taken, all of their layers, and their tensors.
    allow_partial
        Whether layers of other shapes are only warned of.
    strict
        Whether layers with other tensors are an error too.

    Returns
    -------
    list
        What a person should know.

    Raises
    ------
    TensorMismatchError
        A tensor of a layer has a shape that it has in none of the model's own layers, or `strict` is set and a layer
        has other tensors.

    """
    reference, layers, shapes = own
    known: dict[str, set[tuple[int, ...]]] = {}
    for names in layers.values():
        for layer in names:
            known.setdefault(layer.suffix, set()).add(shapes[layer.at(layer.number)])
    everywhere = set(known).intersection(*({layer.suffix for layer in names} for names in layers.values()))
    said = []
    for ref, (taken, theirs, found) in others.items():
        numbers = [number for number in dict.fromkeys(taken) if number in theirs]
        tensors = [layer for number in numbers for layer in theirs[number]]
        unfit = [x for x in tensors if x.suffix in known and found[x.at(x.number)] not in known[x.suffix]]
        if unfit:
            name, shape = unfit[0].at(unfit[0].number), min(known[unfit[0].suffix])
            text = f"tensor {shown(name)} of {ref}, in a layer that slices take, has shape {list(found[name])}"
            if not allow_partial:
                raise TensorMismatchError(
                    text,
                    f"{list(shape)}, as in the layers of {reference}",
                    "stack layers of models of one size, or pass --allow-partial",
                )
            said.append(f"{text}, and in {reference}, whose config.json the output has, {list(shape)}")
        unknown = [layer for layer in tensors if layer.suffix not in known]
        lacking = [(x, suffix) for x in numbers for suffix in sorted(everywhere - {y.suffix for y in theirs[x]})]
        said += _said(reference, ref, [layer.at(layer.number) for layer in unknown], lacking)
    if strict and said:
        raise TensorMismatchError(
            said[0].rpartition(": check")[0] or said[0], "layers with the same tensors", "merge without --strict"
        )
    return said


def _said(
    reference: ModelRef, ref: ModelRef, unknown: Sequence[str], lacking: Sequence[tuple[int, str]]
) -> Iterator[str]:
    """Say which tensors the output's configuration may not describe, and which it may miss."""
    if unknown:
        yield (
            f"{counted(len(unknown), 'tensor')} in layers of {ref} that no layer of {reference} has, whose config.json "
            f"the output has (such as {shown(unknown[0])}): check that it can describe them"
        )
    if lacking:
        yield (
            f"{counted(len(lacking), 'tensor')} that all layers of {reference} have, whose config.json the output has, "
            f"and layers of {ref} lack (such as {shown(lacking[0][1])} of layer {lacking[0][0]}): check that it loads"
        )

"""What some classes need of one parent: the cut network, with every tensor as a part of a stored one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.extraction.document import MASKS, ClassShare, Module, Origin, Taken
from dovetail.engine.modular.extraction.folding import fold
from dovetail.engine.modular.extraction.taking import take
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.counts import Counts, class_numbers, kernels_of
from dovetail.engine.modular.network.cutting import cut
from dovetail.engine.modular.network.parent import Parent
from dovetail.io.checkpoint import TensorInfo


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One network with its tensors, of which nothing is read yet, and where they come from."""

    architecture: Architecture
    """The network."""
    origin: Origin
    """What it is of which parent."""
    tensors: Mapping[str, TensorInfo]
    """Its tensors."""
    taken: Mapping[str, Taken]
    """What each of them is of the parent's."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the logits."""
        return tuple(self.origin.classes)


def masks_of(parent: Parent, masks: str | None) -> str:
    """Choose what a module gets of soft masks: if nothing is asked for, the generators where the parent has them.

    Raises
    ------
    RecipeError
        What is asked for does not exist, or the parent does not have it.

    """
    chosen = masks or ("generators" if parent.generators else "hard")
    if chosen not in MASKS:
        raise RecipeError(f"masks are {chosen!r}", f"one of {', '.join(MASKS)}")
    if chosen == "generators" and not parent.generators:
        raise RecipeError(
            f"{parent.folder} has no mask generators to keep", "a parent trained with them", "choose other masks"
        )
    return chosen


def extract_branch(
    parent: Parent, counts: Counts, digest: str, classes: Sequence[str], threshold: float, masks: str
) -> Branch:
    """Find the kernels of some classes, and cut the parent down to them.

    Parameters
    ----------
    parent, counts, digest
        The parent, its counts and its digest.
    classes
        The classes, in the order of the logits.
    threshold
        See `kernels_of`.
    masks
        One of `MASKS`.

    Raises
    ------
    RecipeError
        A class is unknown, or the threshold or the masks are none that the parent allows.

    """
    numbers = class_numbers(parent.classes, classes)
    found = [
        kernels_of(counts, number, name, threshold, parent.architecture)
        for number, name in zip(numbers, classes, strict=True)
    ]
    shares = {
        name: ClassShare(
            int(counts.samples[number]),
            each.thresholds,
            {layer: int(mask.sum()) for layer, mask in each.kept.items()},
        )
        for name, number, each in zip(classes, numbers, found, strict=True)
    }
    kept = union(each.kept for each in found)
    origin = Origin(parent.folder.resolve().name or "parent", digest, masks, threshold, shares, kept, parent.inputs)
    return cut_branch(parent, counts, origin)


def union(kernels: Iterable[Mapping[str, NDArray[np.bool_]]]) -> Mapping[str, NDArray[np.bool_]]:
    """Unite the kernels of several classes or modules, layer by layer; there must be at least one."""
    return reduce(lambda one, two: {layer: one[layer] | two[layer] for layer in one}, kernels)


def cut_branch(parent: Parent, counts: Counts, origin: Origin) -> Branch:
    """Cut a parent down to the kernels and classes that are named.

    Raises
    ------
    RecipeError
        Masks are to be folded, and the parent's counts have none.

    """
    numbers = class_numbers(parent.classes, tuple(origin.classes))
    architecture, stored = parent.architecture, dict(parent.checkpoint.tensors)
    if origin.masks == "generators":
        architecture = parent.whole
    elif origin.masks == "folded":
        if not counts.soft:
            raise RecipeError(
                f"the counts of {parent.folder} have no soft masks to fold", "those of a parent with mask generators"
            )
        means = {layer: soft[numbers].mean(axis=0) for layer, soft in counts.soft.items()}
        folded = fold(architecture, parent.checkpoint, means)
        architecture, stored = folded.architecture, {**stored, **folded.tensors}
    found = cut(architecture, origin.kept, numbers)
    tensors = {name: take(name, stored[part.tensor], part) for name, part in found.parts.items()}
    taken = {name: Taken(0, part) for name, part in found.parts.items()}
    return Branch(found.architecture, origin, tensors, taken)


def stored_branch(module: Module) -> Branch:
    """Take a module of one parent as it is stored.

    Raises
    ------
    RecipeError
        It has several parents.

    """
    said = module.description
    if len(said.parents) != 1:
        raise RecipeError(
            f"{module.folder} is composed of modules of {len(said.parents)} parents",
            "a module of one parent",
            "compose the modules that it was made of",
        )
    (origin,) = said.parents
    in_order = {name: origin.classes[name] for name in said.classes}
    origin = replace(origin, classes=in_order)
    tensors = {name: module.checkpoint.tensors[name] for name in said.architecture.tensor_shapes()}
    return Branch(said.architecture, origin, tensors, said.tensors)

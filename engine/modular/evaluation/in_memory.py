"""Modules of a network in memory, for figures: cut like those that are extracted, and built at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dovetail.engine.errors import RecipeError
from dovetail.engine.modular.evaluation.metrics import Kept
from dovetail.engine.modular.extraction.branch import masks_of, union
from dovetail.engine.modular.extraction.folding import fold
from dovetail.engine.modular.network.architecture import Architecture
from dovetail.engine.modular.network.counts import Counts, read_whole
from dovetail.engine.modular.network.cutting import Part, cut
from dovetail.engine.modular.network.parent import Parent
from dovetail.engine.modular.pytorch.torch_network import build_network


@dataclass(frozen=True, slots=True)
class MadeModule:
    """A module in memory."""

    architecture: Architecture
    """The smaller network."""
    network: nn.Module
    """The same in torch, in evaluation."""


@dataclass(frozen=True, slots=True)
class ModuleMaker:
    """Makes modules of one network."""

    parent: Parent
    """The network."""
    tensors: Mapping[str, Tensor]
    """Its tensors."""
    counts: Counts
    """Its counts."""
    kernels: Sequence[Kept]
    """The kernels of every class."""
    masks: str | None = None
    """What becomes of soft masks: one of `extraction.document.MASKS`; None for generators where there are some."""

    def make(self, numbers: Sequence[int], *, all_logits: bool = False) -> MadeModule:
        """Put the modules of some classes together.

        Parameters
        ----------
        numbers
            The classes, in the order that their logits get.
        all_logits
            Whether the logits of the other classes stay too, in the network's order.

        Raises
        ------
        RecipeError
            The network does not have the masks that are asked for.

        """
        kept = union(self.kernels[number] for number in numbers)
        architecture, tensors = self._masked(numbers)
        made = cut(architecture, kept, None if all_logits else numbers)
        parts = {name: taken(tensors[part.tensor], part) for name, part in made.parts.items()}
        return MadeModule(made.architecture, build_network(made.architecture, parts))

    def _masked(self, numbers: Sequence[int]) -> tuple[Architecture, Mapping[str, Tensor]]:
        """Give the parent with generators, with the mean masks of some classes in their place, or with neither."""
        masks = masks_of(self.parent, self.masks)
        if masks == "generators":
            return self.parent.whole, self.tensors
        if masks == "hard":
            return self.parent.architecture, self.tensors
        if not self.counts.soft:
            raise RecipeError(f"the counts of {self.parent.folder} have no soft masks", "those of a network with masks")
        means = {path: soft[list(numbers)].mean(axis=0) for path, soft in self.counts.soft.items()}
        folded = fold(self.parent.architecture, self.parent.checkpoint, means)
        made = {name: torch.from_numpy(read_whole(info)) for name, info in folded.tensors.items()}
        return folded.architecture, {**self.tensors, **made}


def taken(tensor: Tensor, part: Part) -> Tensor:
    """Give a part of a tensor as a tensor of its own."""
    if part.rows is not None:
        tensor = tensor[torch.from_numpy(part.rows)]
    if part.columns is not None:
        tensor = tensor[:, torch.from_numpy(part.columns)]
    return tensor.clone()

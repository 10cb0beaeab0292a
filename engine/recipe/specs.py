"""Output tensors with their sources, checked against the checkpoints' names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dovetail.engine.recipe.groups import Group
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.resolver import Resolved, Resolver
from dovetail.io.errors import TensorMismatchError

Catalogue = Mapping[str, tuple[int, ...]]
"""A checkpoint's tensors in file order: shapes by name."""


class SourceTensor(NamedTuple):
    """A tensor of a checkpoint."""

    checkpoint: int
    """Position in `Expansion.checkpoints`."""
    name: str
    """Its name there."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How one output tensor is merged."""

    name: str
    """Its name in the output."""
    base: SourceTensor | None
    """Origin of the task vectors; None for methods that do not work on task vectors."""
    inputs: tuple[SourceTensor, ...]
    """The models' tensors, in the order of the method."""
    parameters: Mapping[str, Any]
    """Parameters of the merge; shared between tensors, not to be changed."""
    model_parameters: tuple[Mapping[str, Any], ...]
    """Parameters of each model, in the order of `inputs`; shared like `parameters`."""
    layer: int | None
    """Its layer in the output; None outside the layers."""
    reference: SourceTensor
    """The tensor that gives shape and dtype, and the values where nothing is to be merged: the base model's
    if there is one, even where it is not the origin of task vectors, else the first model's."""


class Output:
    """The output tensors found so far, and the checkpoints' tensors that are left out.

    Parameters
    ----------
    checkpoints
        Every checkpoint.
    catalogues
        Their tensors.

    """

    def __init__(self, checkpoints: tuple[ModelRef, ...], catalogues: Mapping[ModelRef, Catalogue]) -> None:
        self.checkpoints, self.catalogues = checkpoints, catalogues
        self.specs: dict[str, TensorSpec] = {}
        self._unused: dict[ModelRef, dict[str, None]] = {}

    def note_unused(self, ref: ModelRef, names: Iterable[str]) -> None:
        """Remember tensors of a checkpoint that are not in the output, for `warnings`."""
        self._unused.setdefault(ref, {}).update(dict.fromkeys(names))

    def warnings(self) -> list[str]:
        """Say which tensors of the checkpoints are left out."""
        texts = []
        for ref, unused in self._unused.items():
            if unused:
                some = ", ".join(shown(name) for name in list(unused)[:3]) + (", ..." if len(unused) > 3 else "")
                count = f"{len(unused)} tensor" + "s" * (len(unused) > 1)
                texts.append(f"not in the output: {count} of {ref} that the others lack: {some}")
        return texts


class GroupWriter:
    """Adds a group's tensors to the output, checking that every source has them.

    Parameters
    ----------
    output
        Where they are added.
    group
        What they are merged from.
    resolver
        Their parameters.

    """

    def __init__(self, output: Output, group: Group, resolver: Resolver) -> None:
        self.output, self.group = output, group
        self._resolve = resolver.resolve
        indices = {ref: i for i, ref in enumerate(output.checkpoints)}
        self._reference = indices[group.reference.ref], output.catalogues[group.reference.ref]
        self._sources = [(indices[s.ref], output.catalogues[s.ref].get) for s in group.sources]

    def add(self, name: str, fraction: float, layer: int | None) -> None:
        """Add a tensor that has the same name in the output and in every source.

        Parameters
        ----------
        name
            The name.
        fraction
            Position of its layer among those that gradients span, from 0 to 1.
        layer
            Its layer in the output; None outside the layers.

        Raises
        ------
        TensorMismatchError
            It is missing in a source, or has another shape there.

        """
        index, catalogue = self._reference
        shape = catalogue[name]
        reference = SourceTensor(index, name)
        sources = []
        for index, get in self._sources:
            if get(name) != shape:
                raise self._mismatch(self.output.checkpoints[index], name, shape)
            sources.append(SourceTensor(index, name))
        self._append(name, sources, reference, self._resolve(fraction, name), layer)

    def add_renamed(self, name: str, reference_name: str, source_names: list[str], fraction: float, layer: int) -> None:
        """Add a tensor that has names of its own in its sources: the base model, if any, then the models."""
        index, catalogue = self._reference
        shape = catalogue[reference_name]
        reference = SourceTensor(index, reference_name)
        sources = []
        for (index, get), source_name in zip(self._sources, source_names, strict=True):
            if get(source_name) != shape:
                raise self._mismatch(self.output.checkpoints[index], source_name, shape)
            sources.append(SourceTensor(index, source_name))
        resolved = self._resolve(fraction, name, source_names[1:] if self.group.base else source_names)
        self._append(name, sources, reference, resolved, layer)

    def _append(
        self,
        name: str,
        sources: list[SourceTensor],
        reference: SourceTensor,
        resolved: Resolved,
        layer: int | None,
    ) -> None:
        base = sources.pop(0) if self.group.base else None
        self.output.specs[name] = TensorSpec(name, base, tuple(sources), *resolved, layer, reference)

    def _mismatch(self, ref: ModelRef, name: str, shape: tuple[int, ...]) -> TensorMismatchError:
        found = self.output.catalogues[ref].get(name)
        if found is None:
            return TensorMismatchError(
                f"tensor {shown(name)} is missing in checkpoint {ref}",
                f"shape {list(shape)}, as in {self.group.reference.ref}",
                "merge checkpoints of one architecture",
            )
        return TensorMismatchError(
            f"tensor {shown(name)} of checkpoint {ref} has shape {list(found)}",
            f"{list(shape)}, as in {self.group.reference.ref}",
            "merge checkpoints of one architecture and vocabulary",
        )

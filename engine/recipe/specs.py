"""Output tensors with their sources, checked against the checkpoints' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import Any, NamedTuple

from dovetail.engine.recipe.gaps import Gaps, is_vocabulary, rows_differ
from dovetail.engine.recipe.groups import Group
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.resolver import Resolved, Resolver

Catalogue = Mapping[str, tuple[int, ...]]
"""A checkpoint's tensors in file order: shapes by name."""


class SourceTensor(NamedTuple):
    """A tensor of a checkpoint."""

    checkpoint: int
    """Position in `Expansion.checkpoints`."""
    name: str
    """Its name there."""


class TensorSpec(NamedTuple):  # faster to make than a frozen dataclass, and there can be a million
    """How one output tensor is merged."""

    name: str
    """Its name in the output."""
    base: SourceTensor | None
    """The base model's tensor where the method sets it apart from the models; else None."""
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
    copied: bool = False
    """Whether the reference is taken as it is."""
    like: str = ""
    """Name of the output tensor of which this is a copy, to have the same random masks; empty if it is none."""

    def read_instead(
        self, stand_ins: Mapping[ModelRef, Mapping[str, str]], checkpoints: tuple[ModelRef, ...]
    ) -> TensorSpec:
        """Give the tensor sources that are stored, by checkpoint and name that are not."""

        def stored(item: SourceTensor) -> SourceTensor:
            return item._replace(name=stand_ins.get(checkpoints[item.checkpoint], {}).get(item.name, item.name))

        base = None if self.base is None else stored(self.base)
        return self._replace(base=base, inputs=tuple(map(stored, self.inputs)), reference=stored(self.reference))


class Output:
    """The output tensors found so far.

    Parameters
    ----------
    checkpoints
        Every checkpoint.
    catalogues
        Their tensors.
    gaps
        Collects the tensors that some checkpoints lack or have in other shapes.

    """

    def __init__(self, checkpoints: tuple[ModelRef, ...], catalogues: Mapping[ModelRef, Catalogue], gaps: Gaps) -> None:
        self.checkpoints, self.catalogues, self.gaps = checkpoints, catalogues, gaps
        self.specs: dict[str, TensorSpec] = {}
        self.merged: set[ModelRef] = set()
        """Checkpoints of which at least one tensor was merged."""
        self.notes: list[str] = []
        """What a person should know besides gaps."""

    def copy(self, name: str, index: int, layer: int | None, source_name: str | None = None) -> None:
        """Add a tensor that is taken from a checkpoint as it is."""
        reference = SourceTensor(index, source_name or name)
        self.specs[name] = TensorSpec(name, None, (), {}, (), layer, reference, copied=True)


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
    least
        Least number of models of the method, the base model not counted where it is set apart.

    """

    def __init__(self, output: Output, group: Group, resolver: Resolver, least: int = 1) -> None:
        self.output, self.group = output, group
        self._resolve, self._least, self._method = resolver.resolve, max(1, least), resolver.method
        indices = {ref: i for i, ref in enumerate(output.checkpoints)}
        self._reference = indices[group.reference.ref], output.catalogues[group.reference.ref]
        self._sources = [(indices[s.ref], output.catalogues[s.ref].get) for s in group.sources]
        self._seen = {s.ref for s in group.sources} <= output.merged
        self._merged = output.gaps.shares.counter(tuple(source.ref for source in group.sources))

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
            A source lacks it or has it in another shape, and the merge is strict.

        """
        own, catalogue = self._reference
        shape = catalogue[name]
        reference = SourceTensor(own, name)
        sources = []
        for index, get in self._sources:
            if get(name) != shape:
                names = [name] * len(self._sources)
                self._add_unlike(name, reference, names, self._resolve(fraction, name), layer)
                return
            sources.append(reference if index == own else SourceTensor(index, name))
        self._append(name, sources, reference, self._resolve(fraction, name), layer)

    def add_renamed(
        self, name: str, reference_name: str, source_names: list[str], fraction: float, layer: int | None
    ) -> None:
        """Add a tensor under its names in the sources: the base model's name, if there is one, comes first."""
        index, catalogue = self._reference
        shape = catalogue[reference_name]
        reference = SourceTensor(index, reference_name)
        resolved = self._resolve(fraction, name, source_names[1:] if self.group.base else source_names)
        sources = []
        for (index, get), source_name in zip(self._sources, source_names, strict=True):
            if get(source_name) != shape:
                self._add_unlike(name, reference, source_names, resolved, layer)
                return
            sources.append(SourceTensor(index, source_name))
        self._append(name, sources, reference, resolved, layer)

    def _append(
        self,
        name: str,
        sources: list[SourceTensor],
        reference: SourceTensor,
        resolved: Resolved,
        layer: int | None,
    ) -> None:
        if not self._seen:
            self._seen = True
            self.output.merged.update(source.ref for source in self.group.sources)
        shape = self._reference[1][reference.name]
        self._merged.add(shape, vocabulary=layer is None and is_vocabulary(reference.name))
        base = sources.pop(0) if self.group.base else None
        if not sources:  # nothing changes the base model
            self.output.copy(name, reference.checkpoint, layer, reference.name)
            return
        self.output.specs[name] = TensorSpec(name, base, tuple(sources), *resolved, layer, reference)

    def _add_unlike(
        self, name: str, reference: SourceTensor, source_names: list[str], resolved: Resolved, layer: int | None
    ) -> None:
        """Add a tensor from those sources that have it in a shape that can be used."""
        base: SourceTensor | None = None
        models: list[SourceTensor] = []
        own: list[Mapping[str, Any]] = []
        model_parameters = iter(resolved[1])
        for source, (index, _), source_name in zip(self.group.sources, self._sources, source_names, strict=True):
            tensor = SourceTensor(index, source_name)
            if source is self.group.base:
                base = tensor  # which is the reference itself
                continue
            parameters = next(model_parameters)
            if tensor == reference or self._is_usable(tensor, reference, layer):
                models.append(tensor)
                own.append(parameters)
                self.output.merged.add(source.ref)
                self.output.gaps.shares.merged(
                    (source.ref,),
                    self.output.catalogues[source.ref][source_name],
                    vocabulary=layer is None and is_vocabulary(source_name),
                )
        weighted = self._weighted(name, resolved, own)
        if len(models) < self._least or weighted is None:
            self.output.gaps.copied(name)
            self.output.copy(name, reference.checkpoint, layer, reference.name)
            return
        self.output.specs[name] = TensorSpec(
            name, base, tuple(models), resolved[0], tuple(weighted), layer, reference, copied=False
        )

    def _weighted(self, name: str, resolved: Resolved, own: list[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
        """Scale the weights of the models that have a tensor to the sum of all models' weights.

        A sum of whole models would be too small by the share of those that lack it. Task vectors are no such sum, and
        nothing is to be scaled where the method divides by the weights that there are.

        Returns
        -------
        list or None
            Parameters of the models that have the tensor; None where their weights cannot have that sum.

        """
        merge, given = resolved
        switch = self._method.divides_weights
        if switch is None or self.group.base or merge[switch] or len(own) == len(given):
            return own
        total, there = (fsum(float(values["weight"]) for values in each) for each in (given, own))
        if total == there:
            return own
        if total == 0 or there == 0:
            return None
        self.output.gaps.scaled(name)
        return [{**values, "weight": float(values["weight"]) * total / there} for values in own]

    def _is_usable(self, tensor: SourceTensor, reference: SourceTensor, layer: int | None) -> bool:
        """Whether a model's tensor can be merged; note what is not as in the reference."""
        ref, reference_ref = (self.output.checkpoints[item.checkpoint] for item in (tensor, reference))
        shape, found = self._reference[1][reference.name], self.output.catalogues[ref].get(tensor.name)
        gaps = self.output.gaps
        if found == shape:
            return True
        if found is None:
            gaps.missing(ref, reference_ref, tensor.name, shape)
            return False
        if layer is None and rows_differ(shape, found) and is_vocabulary(tensor.name):
            gaps.unlike("cut" if found[0] > shape[0] else "filled", ref, reference_ref, tensor.name, shape, found)
            return True
        gaps.unlike("shape", ref, reference_ref, tensor.name, shape, found)
        return False

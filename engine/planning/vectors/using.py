"""Planning merges from a store of task vectors: models that are not there, and what the store has in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import find
from dovetail.engine.methods.stored import StoredSum
from dovetail.engine.methods.vectors import refuse_unstorable, using
from dovetail.engine.planning.assembly import assemble
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.vectors.agreement import check_agreement, check_tensor
from dovetail.engine.planning.vectors.document import StoreDocument, StoredTensor, read_document
from dovetail.engine.planning.vectors.stand_ins import CopyTest, Remembered, stand_in
from dovetail.engine.planning.work import Input
from dovetail.engine.recipe import Recipe
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.dtypes import DTYPES
from dovetail.io.errors import StoreError
from dovetail.io.output_format import Chunking
from dovetail.io.zarr.packed import PackedSource, rows_of
from dovetail.io.zarr.prints import ChunksFingerprint
from dovetail.io.zarr.source import ZarrSource
from dovetail.io.zarr.vectors import array_names, mark_bytes

_AGAIN = "copy the store again, or make it anew"


@dataclass(frozen=True, slots=True)
class Store:
    """A store of task vectors, opened."""

    label: str
    """What the recipe calls it."""
    checkpoint: Checkpoint
    """Its arrays, and the fingerprints of all its files."""
    document: StoreDocument
    """What it says of itself."""

    def cast(
        self, recipe: Recipe, opened: Sequence[Checkpoint], configs: Sequence[dict[str, Any] | None], ask: CopyTest
    ) -> tuple[list[Checkpoint], list[dict[str, Any] | None], CopyTest]:
        """Give a checkpoint for every model that a recipe names: the base models', and stand-ins for all others.

        Parameters
        ----------
        recipe
            The recipe.
        opened, configs
            The base models, in the order of `Recipe.base_models`, and their configurations.
        ask
            Says of a base model whether one tensor is a copy of another.

        Returns
        -------
        checkpoints, configs, ask
            The same for all models, in the order of `Recipe.named`.

        Raises
        ------
        RecipeError
            The store was not made of these models or by this method.

        """
        check_agreement(self.document, recipe, find(recipe.merge_method), self.label)
        there = dict(zip(recipe.base_models(), zip(opened, configs, strict=False), strict=False))
        checkpoints, found = list[Checkpoint](), list[dict[str, Any] | None]()
        for ref in recipe.named():
            if ref in there:
                checkpoint, config = there[ref]
            else:
                model = self.document.models[str(ref)]
                checkpoint, config = stand_in(str(ref), model), model.config
            checkpoints.append(checkpoint)
            found.append(config)
        known = {name: model.copies for name, model in self.document.models.items()}
        return checkpoints, found, Remembered(ask, known)


def open_store(checkpoint: Checkpoint, label: str) -> Store:
    """Read what a store says of itself, given its arrays.

    Raises
    ------
    StoreError
        It is no store, or it is damaged.

    """
    if checkpoint.folder is None:
        raise StoreError(
            f"{label} is no store of task vectors",
            "a folder that dovetail vectors has made",
            "make one of the models, or correct 'vectors' in the recipe; one at an address is downloaded first",
        )
    document, print_ = read_document(checkpoint.folder)
    return Store(label, replace(checkpoint, files=(print_, *checkpoint.files)), document)


def use_store(plan: Plan, store: Store, bases: Sequence[Checkpoint]) -> Plan:
    """Put what a store has in the place of the models' tensors.

    Parameters
    ----------
    plan
        The plan of the merge of the models, most of which are stand-ins.
    store
        The store.
    bases
        The base models, which are there.

    Raises
    ------
    RecipeError
        What models keep by the recipe is not what the store has; the text names the first difference.
    StoreError
        The store is damaged.

    """
    masks, method = refuse_unstorable(plan.method), using(plan.method)
    missing = dict.fromkeys(store.document.tensors)
    sizes = {file.name: file for file in store.checkpoint.files if isinstance(file, ChunksFingerprint)}
    tensors = []
    for tensor in plan.tensors:
        if tensor.problem is None or not tensor.length:
            tensors.append(_taken(tensor))
            continue
        missing.pop(tensor.name, None)
        stored = check_tensor(store.document, tensor, plan, store.label)
        inputs = tuple(_input(store, tensor, stored, place, sizes) for place in range(len(stored.models)))
        assert tensor.base is not None
        program = StoredSum(
            masks.program(tensor.problem),
            (tensor.base.code, *(item.code for item in inputs)),
            tensor.dtype.kernel_code,
            tensor.length,
            stored.chunk,
            f"tensor {tensor.base.tensor!r} of {tensor.base.checkpoint}",
        )
        element_bytes = tensor.dtype.itemsize + sum(item.source.itemsize for item in (tensor.base, *inputs))
        tensors.append(
            replace(
                tensor,
                program=program,
                models=inputs,
                element_bytes=element_bytes,
                # As the store is cut, nothing is unpacked twice; objects of Zarr stay what they are without a store.
                chunking=Chunking(stored.chunk) if plan.options.format.takes_any_range else tensor.chunking,
            )
        )
    for name in missing:
        raise RecipeError(
            f"the store {store.label} has tensor {name!r}, which this recipe does not merge",
            "the recipe and the base model of the store",
            "make a store of this recipe, or correct it",
        )
    return assemble(
        recipe=plan.recipe,
        options=plan.options,
        method=method,
        checkpoints=(*bases, store.checkpoint),
        base=bases[0],
        models=plan.models,
        tensors=tuple(tensors),
        stacks=plan.stacks,
        tie=plan.tie,
        vocabulary=plan.vocabulary,
        warnings=(*plan.warnings, *store.checkpoint.notes),
        layout=plan.layout,
    )


def _taken(tensor: PlannedTensor) -> PlannedTensor:
    """Plan a tensor that is taken from the base model, without the models that it is else compared with."""
    if tensor.problem is not None or tensor.base is None:
        return tensor
    element_bytes = tensor.dtype.itemsize + tensor.base.source.itemsize
    return replace(tensor, models=(), order=(), element_bytes=element_bytes)


def _input(
    store: Store, tensor: PlannedTensor, stored: StoredTensor, place: int, sizes: Mapping[str, ChunksFingerprint]
) -> Input:
    """Give what the store has of a tensor of one model."""
    rows, name = -(-tensor.length // stored.chunk), tensor.name
    dtype = stored.dtypes[place]
    wanted = zip(
        array_names(name, place),
        ("U8", dtype),
        ((rows, mark_bytes(stored.chunk)), (rows, stored.most[place])),
        strict=True,
    )
    arrays, size_bytes = list[ZarrSource](), 0
    for array, kind, shape in wanted:
        info = store.checkpoint.tensors.get(array)
        if info is None or (info.dtype.name, info.shape) != (kind, shape):
            found = "is not there" if info is None else f"is {info.dtype.name} of shape {list(info.shape)}"
            raise StoreError(f"array {array!r} of {store.label} {found}", f"{kind} of shape {list(shape)}", _AGAIN)
        source = rows_of(info)
        if source is None:
            raise StoreError(f"array {array!r} of {store.label} is cut otherwise", "Zarr with a row a chunk", _AGAIN)
        files = sizes[source.prefix]
        if files.count != rows:
            raise StoreError(f"array {array!r} of {store.label} has {files.count} chunks", f"{rows}", _AGAIN)
        size_bytes += files.size_bytes
        arrays.append(source)
    marks, values = arrays
    label = f"tensor {name!r} of {stored.models[place]} in {store.label}"
    packed = PackedSource(label, marks, values, prod(tensor.shape), stored.chunk, stored.most[place])
    code = DTYPES[dtype].kernel_code
    return Input(packed, code, f"{stored.models[place]} in {store.label}", name, size_bytes, packed=True)

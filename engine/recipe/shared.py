"""Tensors that a model uses in several places, which some checkpoints store once and others for each place.

T5's encoder and decoder have the embedding ``shared``; BERT's ``predictions.decoder.bias`` is ``predictions.bias``;
some of Zamba's layers are one. PyTorch files store such a tensor under all its names, safetensors files under one. A
tensor that one checkpoint lacks, and that is a copy of another tensor in every checkpoint that stores it, is that other
tensor where it is lacking. Merged without it, the copies would part.

Heads that are copies of embeddings may also be left out of the output: see `tied`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dovetail.engine.recipe.layers import parse_layer
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.places import shown
from dovetail.engine.recipe.specs import Catalogue
from dovetail.engine.recipe.tied import HeadComparison, Heads
from dovetail.engine.text import counted


@dataclass(frozen=True, slots=True)
class Shared:
    """What stands in for copies that are not stored."""

    catalogues: Mapping[ModelRef, Catalogue]
    """Every checkpoint's tensors, stand-ins among them."""
    stand_ins: Mapping[ModelRef, Mapping[str, str]] = field(default_factory=dict)
    """By checkpoint, the tensor that is read in the place of one that is not stored."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are copies wherever they are stored, and the tensors of which they are copies."""
    notes: tuple[str, ...] = ()
    """What a person should know."""


def find_shared(stored: Mapping[ModelRef, Catalogue], heads: Heads, is_copy: HeadComparison | None = None) -> Shared:
    """Find the tensors of the first checkpoint that others lack because they store each shared tensor once.

    Parameters
    ----------
    stored
        The tensors that every checkpoint stores, the one that decides the output's first.
    heads
        What is known of heads, which are left to it.
    is_copy
        Compares two tensors of a checkpoint.

    """
    catalogues = heads.catalogues
    first, *others = catalogues.items()
    lacking: dict[str, list[ModelRef]] = {}
    for ref, catalogue in others:
        for name in first[1].keys() - catalogue.keys():
            lacking.setdefault(name, []).append(ref)
    if not lacking or is_copy is None:
        return Shared(catalogues)
    everywhere = set.intersection(*(set(catalogue) for catalogue in stored.values()))
    candidates = _by_form({name: shape for name, shape in first[1].items() if name in everywhere})
    layers = {ref: _layers(catalogues[ref]) for ref in {ref for refs in lacking.values() for ref in refs}}
    found = dict(catalogues)
    stand_ins: dict[ModelRef, dict[str, str]] = {}
    copies: dict[str, str] = {}
    notes: list[str] = []
    for name in (name for name in first[1] if name in lacking and name not in heads.untied):
        layer = parse_layer(name)
        # A model without the whole layer is a shorter model, not one that stores a layer's tensors once.
        if layer is not None and any((layer.stack, layer.number) not in layers[ref] for ref in lacking[name]):
            continue
        original = _original(name, candidates.get(_form(name, first[1]), ()), stored, is_copy)
        if original is None:
            continue
        copies[name] = original
        for ref in lacking[name]:
            stand_ins.setdefault(ref, {})[name] = original
    for ref, names in stand_ins.items():
        found[ref] = {**found[ref], **{name: stored[ref][other] for name, other in names.items()}}
        name, original = next(iter(names.items()))
        are = "is a copy of a tensor" if len(names) == 1 else "are copies of tensors"
        notes.append(
            f"{counted(len(names), 'tensor')} that {ref} does not store (such as {shown(name)}) {are} that it stores "
            f"(such as {shown(original)}), and so in the output"
        )
    return Shared(found, stand_ins, copies, tuple(notes))


def _original(
    name: str, candidates: Sequence[str], stored: Mapping[ModelRef, Catalogue], is_copy: HeadComparison
) -> str | None:
    """Name the tensor of which another is a copy wherever it is stored; None if there is none.

    Layers share what has the same name in both, so that no tensor is compared with those of all other layers.
    """
    layer = parse_layer(name)
    for other in candidates:
        if layer is not None and (found := parse_layer(other)) is not None and found.suffix != layer.suffix:
            continue
        if all(is_copy(ref, name, other) for ref, catalogue in stored.items() if name in catalogue):
            return other
    return None


def _form(name: str, catalogue: Catalogue) -> tuple[str, tuple[int, ...]]:
    """Give what a tensor and its copies have in common: the last component of the name, and the shape."""
    return name.rpartition(".")[2], catalogue[name]


def _by_form(catalogue: Catalogue) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in catalogue:
        found.setdefault(_form(name, catalogue), []).append(name)
    return found


def _layers(names: Catalogue) -> set[tuple[str, int]]:
    """Give the layers of which a checkpoint has any tensor."""
    return {(layer.stack, layer.number) for layer in map(parse_layer, names) if layer is not None}

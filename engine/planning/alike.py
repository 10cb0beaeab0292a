"""The same model stored in two ways: every checkpoint is seen with the names and the experts of the first.

The first checkpoint is the base model, or else the first model: the output has its layout, and its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dovetail.engine.planning.expert_layouts import (
    Style,
    align_routers,
    block_prefixes,
    first_difference,
    restyled,
    style_of,
)
from dovetail.engine.planning.likeness import model_types, same_tensors
from dovetail.engine.planning.renaming import find_renaming
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import TensorMismatchError

_Config = Mapping[str, Any] | None


def make_alike(
    checkpoints: Sequence[Checkpoint], configs: Sequence[_Config], labels: Sequence[str], *, allow_partial: bool
) -> tuple[tuple[Checkpoint, ...], list[str]]:
    """Present all checkpoints with the names of the first one's tensors, and with experts stored as there.

    Nothing is read or copied: what is stored otherwise is a view of what is stored.

    Parameters
    ----------
    checkpoints
        Every checkpoint, the base model first.
    configs
        Their configurations.
    labels
        Their names for people.
    allow_partial
        Whether experts that cannot be seen so are left as they are; else that is an error.

    Returns
    -------
    tuple
        The checkpoints, and what a person should know.

    Raises
    ------
    TensorMismatchError
        Experts are fused in one checkpoint and not in the other, of an architecture of which it is not known how; or
        one of them is not complete.

    """
    first, made, notes = checkpoints[0], [checkpoints[0]], list[str]()
    ours = model_types(configs[0])
    for checkpoint, config, label in zip(checkpoints[1:], configs[1:], labels[1:], strict=True):
        alike = _renamed(checkpoint, first, label, labels[0], notes)
        types = model_types(config) or ours, ours or model_types(config)
        if types[0] == types[1] and same_tensors(alike, first):
            made.append(alike)
            continue
        alike = _with_experts(alike, first, types, (label, labels[0]), notes, allow_partial)
        if not allow_partial and (place := first_difference(first.tensors, alike.tensors)):
            raise TensorMismatchError(
                f"checkpoints {labels[0]} and {label} store experts below {place!r} in different ways, and one of them "
                "does not store all of its experts in one way",
                "experts stored in one way",
                "store both models in one way, or pass --allow-partial to merge the rest",
            )
        made.append(alike)
    return tuple(made), notes


def _renamed(checkpoint: Checkpoint, first: Checkpoint, label: str, first_label: str, notes: list[str]) -> Checkpoint:
    """Present a checkpoint under the first one's names, if one renaming maps all its layers."""
    tensors, reference = checkpoint.tensors, first.tensors
    if tensors.keys() <= reference.keys():
        return checkpoint
    found = find_renaming(
        {name: info.shape for name, info in tensors.items()},
        {name: info.shape for name, info in reference.items()},
        [*block_prefixes(tensors), *block_prefixes(reference)],
    )
    if found is None:
        return checkpoint
    rules = ", ".join(f"{old or '(nothing)'} for {new or '(nothing)'}" for old, new in found.prefixes)
    notes.append(
        f"names of {len(found.names)} tensors of {label} begin otherwise than in {first_label}, with {rules}, and are "
        "matched by what follows"
    )
    return replace(checkpoint, tensors={found.names.get(name, name): info for name, info in tensors.items()})


def _with_experts(
    checkpoint: Checkpoint,
    first: Checkpoint,
    types: tuple[frozenset[str], frozenset[str]],
    labels: tuple[str, str],
    notes: list[str],
    allow_partial: bool,
) -> Checkpoint:
    """Present a checkpoint with experts stored as in the first one."""
    own, wanted = style_of(checkpoint.tensors, types[0]), style_of(first.tensors, types[1])
    if own is None or wanted is None:
        return checkpoint
    if not _can_be_seen(own, wanted):
        if allow_partial:
            return checkpoint
        raise _unknown(own, wanted, types, labels)
    if own == wanted:
        return checkpoint
    tensors = restyled(checkpoint.tensors, own, wanted, *labels)
    notes.append(
        f"experts of {labels[0]} are stored {_manner(own)}, and merged with those of {labels[1]}, stored "
        f"{_manner(wanted)}, as the output's are"
    )
    return replace(checkpoint, tensors=align_routers(tensors, first.tensors))


def _can_be_seen(own: Style, wanted: Style) -> bool:
    """Whether experts can be seen as in another checkpoint, by what is known of how they are fused."""
    fused = [style.packing for style in (own, wanted) if style.words is None]
    # Of two that are fused in a way that is not known, it is one way: an architecture is merged with itself.
    return None not in fused or fused == [None, None]


def _unknown(
    own: Style, wanted: Style, types: tuple[frozenset[str], frozenset[str]], labels: tuple[str, str]
) -> Exception:
    named = [", ".join(sorted(each)) or "none" for each in types]
    return TensorMismatchError(
        f"experts of checkpoint {labels[0]} (model_type {named[0]}) are stored {_manner(own)}, and those of "
        f"{labels[1]} (model_type {named[1]}) {_manner(wanted)}",
        "experts stored in one way, or an architecture of which it is known how experts are fused, such as qwen3_moe",
        "store both models in one way, or pass --allow-partial to merge the rest",
    )


def _manner(style: Style) -> str:
    if style.words is not None:
        return f"one by one ({style.block}.experts.0.{style.words[0]})"
    how = ""
    if style.packing is not None and style.packing.columns:
        how = ", by columns" + (" that alternate" if style.packing.alternating else "")
    return f"fused ({style.block}.experts.gate_up_proj{how})"

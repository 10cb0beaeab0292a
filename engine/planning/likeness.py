"""Whether models are stored in one way, as nearly all are: with the same tensors, of the same architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.io.checkpoint import Checkpoint


def stored_alike(checkpoints: Sequence[Checkpoint], configs: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether all checkpoints have the first one's tensors, and configurations that name no other architecture.

    Parameters
    ----------
    checkpoints
        Every checkpoint, at least one.
    configs
        Their configurations; None where there is none.

    """
    first, named = checkpoints[0], [model_types(config) for config in configs]
    return all(
        (types or named[0]) == (named[0] or types) and same_tensors(checkpoint, first)
        for checkpoint, types in zip(checkpoints[1:], named[1:], strict=True)
    )


def same_tensors(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints have the same tensors in the same shapes, and so, of one architecture, the same experts.

    Most have, and names of experts, of which there may be 50,000, need not be taken apart.
    """
    theirs = other.tensors
    return one.tensors.keys() == theirs.keys() and all(
        info.shape == theirs[name].shape for name, info in one.tensors.items()
    )


def model_types(config: Mapping[str, Any] | None) -> frozenset[str]:
    """Give the architectures that a configuration names, those of its parts included."""
    found = {str((config or {}).get("model_type", ""))}
    for key, value in (config or {}).items():
        if key.endswith("_config") and isinstance(value, dict):
            found |= model_types(value)
    return frozenset(found - {""})

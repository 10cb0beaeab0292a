"""Knowing inputs again: what of checkpoints and their adapters must be the same for work to be continued."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from dovetail.io.checkpoint import Checkpoint


def input_identity(checkpoints: Iterable[Checkpoint]) -> list[Any]:
    """List places and fingerprints of all files, as values that JSON has."""
    found: list[Any] = []
    for checkpoint in checkpoints:
        found.append([str(checkpoint.path), [asdict(file) for file in checkpoint.files]])
        if checkpoint.adapter is not None:
            found.append([str(checkpoint.adapter.folder), [asdict(file) for file in checkpoint.adapter.files]])
    return found

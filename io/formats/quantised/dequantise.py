"""Making a quantised checkpoint one that can be merged: its codes become weights, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats.config import CONFIG_NAME, MAX_CONFIG_BYTES, parse_config, read_config
from dovetail.io.formats.quantised.recognise import CODE_DTYPES, recognise
from dovetail.io.formats.quantised.refused import refuse
from dovetail.io.formats.quantised.settings import MODELOPT_NAME, READ_METHODS, find_settings


def dequantise(checkpoint: Checkpoint) -> Checkpoint:
    """Give a checkpoint in which all tensors are plain weights or buffers.

    Quantised weights become float32 while they are read; `TensorInfo.output_dtype` gives bfloat16 for them. They have
    the names and shapes of the unquantised model, and the tensors of their scales are gone.

    Parameters
    ----------
    checkpoint
        As a format's reader gives it.

    Raises
    ------
    UnsupportedError
        It is quantised in a way that is not read.
    CheckpointError
        Its configuration is damaged.

    """
    coded = any(info.dtype.name in CODE_DTYPES for info in checkpoint.tensors.values())
    config = _read_config(checkpoint, CONFIG_NAME)
    settings = find_settings(config, _read_config(checkpoint, MODELOPT_NAME) if coded else None)
    found = recognise(checkpoint.tensors, settings)
    unread = settings.methods - READ_METHODS
    if (found.refusal or found.pairs) and unread:
        refuse(checkpoint.path, settings.evidence, settings.methods)
    if found.refusal:
        refuse(checkpoint.path, found.refusal, settings.methods, found.action)
    if not found.pairs:
        if not settings.places:
            return checkpoint
        note = (
            f"{checkpoint.path}: {settings.evidence}, but no tensor is quantised; the output's configuration will not "
            "have it."
        )
        return replace(checkpoint, notes=(*checkpoint.notes, note))
    if settings.rotated:
        refuse(checkpoint.path, "its configuration has a transform_config, so its weights are rotated")
    from dovetail.io.formats.quantised.weights import with_weights  # most checkpoints are not quantised

    return with_weights(checkpoint, found, settings)


def _read_config(checkpoint: Checkpoint, name: str) -> Mapping[str, Any] | None:
    """Read a JSON object beside the weights; None if there is none."""
    if checkpoint.side_files is not None:
        raw = checkpoint.side_files.read(name, MAX_CONFIG_BYTES)
        return None if raw is None else parse_config(raw, f"{checkpoint.path}/{name}")
    return read_config(checkpoint.folder, name) if checkpoint.folder is not None else None

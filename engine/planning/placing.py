"""Giving planned tensors their places in the output, in the format that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.io.output_format import Layout, OutputFormat, OutputTensor


def lay_out(
    tensors: Sequence[PlannedTensor], output: OutputFormat[Any], metadata: Mapping[str, str] | None = None
) -> tuple[tuple[PlannedTensor, ...], Layout]:
    """Decide where every tensor goes.

    Parameters
    ----------
    tensors
        The tensors, planned but for their places.
    output
        The output's format.
    metadata
        Free-form metadata of the output; None for the usual.

    Returns
    -------
    tuple
        The tensors, cut into chunks that are what the format stores at a time.
    Layout
        The output's files.

    """
    wanted = [OutputTensor(item.name, item.dtype, item.shape, item.chunking.chunk_elements) for item in tensors]
    layout, chunkings = output.lay_out(wanted, metadata)
    cut = zip(tensors, chunkings, strict=True)
    return tuple([item if item.chunking == found else replace(item, chunking=found) for item, found in cut]), layout

"""Giving planned tensors their places in the output, in the format that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.io.formats.safetensors_layout import plan_layout
from dovetail.io.output import Layout, ZarrOptions
from dovetail.io.zarr.layout import ArrayGrid, array_grid, plan_zarr

_ENCODED_BYTES = 2**20
"""What codecs need however small the chunk."""


def lay_out(
    tensors: Sequence[PlannedTensor], options: PlanOptions, metadata: Mapping[str, str] | None = None
) -> tuple[tuple[PlannedTensor, ...], Layout]:
    """Decide where every tensor goes.

    Parameters
    ----------
    tensors
        The tensors, planned but for their places.
    options
        What decides the output's bytes.
    metadata
        Free-form metadata of the output; None for the usual.

    Returns
    -------
    tuple
        The tensors, cut into chunks that are what the format stores at a time.
    Layout
        The output's files.

    """
    if options.zarr is None:
        named = [(item.name, item.dtype, item.shape) for item in tensors]
        return tuple(tensors), plan_layout(named, options.shard_size_bytes, metadata)
    grids = [_grid(item, options.zarr) for item in tensors]
    layout = plan_zarr(
        [(item.name, item.dtype, item.shape, grid) for item, grid in zip(tensors, grids, strict=True)],
        options.zarr.codec,
        metadata,
    )
    cut = tuple(_cut(item, grid) for item, grid in zip(tensors, grids, strict=True))
    return cut, layout


def _grid(tensor: PlannedTensor, options: ZarrOptions) -> ArrayGrid:
    itemsize, target = tensor.dtype.itemsize, tensor.chunk_elements
    if options.shard_bytes is not None:
        target = max(target, options.shard_bytes // itemsize)
    return array_grid(tensor.shape, itemsize, target, sharded=options.shard_bytes is not None)


def _cut(tensor: PlannedTensor, grid: ArrayGrid) -> PlannedTensor:
    """Make the tensor's chunks its objects; an object that is encoded exists padded, compressed and with checksums."""
    return replace(
        tensor,
        chunk_elements=grid.object_elements,
        chunk_period=grid.period if grid.period < tensor.length else 0,
        write_scratch_bytes=13 * grid.object_elements * tensor.dtype.itemsize // 4 + _ENCODED_BYTES,
    )

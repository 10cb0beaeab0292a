"""Putting weights, which are computed while they are read, in the place of codes and scales."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from dovetail.io.checkpoint import Checkpoint, StoredForm, TensorInfo
from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES
from dovetail.io.formats.quantised.grids import GridError, SeveralGridsError, describe, find_grid
from dovetail.io.formats.quantised.recognise import NVFP4_GROUP, Findings, Pair
from dovetail.io.formats.quantised.refused import NAME_BLOCKS, refuse
from dovetail.io.formats.quantised.settings import Settings
from dovetail.io.source import Source
from dovetail.io.sources.dequantised import DequantisedSource
from dovetail.io.sources.scale_grid import ScaleGrid
from dovetail.io.sources.scaled_scales import ScaledScales
from dovetail.io.sources.transposed import TransposedSource

OWN_DTYPE: Final = DTYPES["BF16"]
"""The dtype in which dequantised weights are stored if none is asked for."""


def with_weights(checkpoint: Checkpoint, found: Findings, settings: Settings) -> Checkpoint:
    """Put weights in the place of codes, and leave scales out."""
    by_codes = {pair.codes: pair for pair in found.pairs}
    gone = {name for pair in found.pairs for name in (pair.scales, pair.whole)}.union(found.dropped)
    tensors: dict[str, TensorInfo] = {}
    for name, info in checkpoint.tensors.items():
        if name in gone:
            continue
        new = _weight(checkpoint, by_codes[name], settings) if name in by_codes else info
        if new.name in tensors:
            refuse(checkpoint.path, f"it has two tensors for the weight {new.name!r}")
        tensors[new.name] = new
    metadata = {key: value for key, value in checkpoint.metadata.items() if key == "format"}
    notes = (*checkpoint.notes, *_notes(checkpoint, tensors, found))
    return replace(checkpoint, tensors=tensors, metadata=metadata, notes=notes)


def _weight(checkpoint: Checkpoint, pair: Pair, settings: Settings) -> TensorInfo:
    """Make the weight of one pair."""
    codes, scales = checkpoint.tensors[pair.codes], checkpoint.tensors[pair.scales]
    code_dtype = QUANTISED_DTYPES["F4"] if pair.packed else codes.dtype
    scale_dtype = QUANTISED_DTYPES["F8_E8M0"] if scales.dtype.name == "U8" else scales.dtype
    shape = codes.shape
    if pair.grouped:
        shape = (*shape[:-2], 32 * shape[-2])
    elif pair.packed and codes.dtype.name != "F4":
        shape = (*shape[:-1], 2 * shape[-1])
    try:
        grid = (
            _packed_grid(shape, NVFP4_GROUP if pair.whole else 32)
            if pair.packed
            else find_grid(shape, scales.shape, settings.blocks)
        )
    except GridError as error:
        shapes = f"{list(scales.shape)} scales {pair.codes!r} of shape {list(codes.shape)}"
        action = NAME_BLOCKS if isinstance(error, SeveralGridsError) else ""
        refuse(checkpoint.path, f"tensor {pair.scales!r} of shape {shapes}, and {error}", settings.methods, action)
    factors, form, stored_bytes = scales.source, describe(grid, shape), codes.nbytes + scales.nbytes
    if pair.whole:
        whole = checkpoint.tensors[pair.whole]
        factors, scale_dtype = ScaledScales(factors, scale_dtype, whole.source, pair.divides), DTYPES["F32"]
        form, stored_bytes = f"{form}, and one for all", stored_bytes + whole.nbytes
    rows = DequantisedSource(codes.source, code_dtype, factors, scale_dtype, grid, math.prod(shape))
    stored = StoredForm(f"{code_dtype} with {form}", stored_bytes)
    source: Source = TransposedSource(rows) if pair.transposed else rows
    if pair.transposed:
        shape = (shape[0], shape[2], shape[1])
    return TensorInfo(pair.name, DTYPES["F32"], shape, source, own_dtype=OWN_DTYPE, stored=stored)


def _packed_grid(shape: tuple[int, ...], group: int) -> ScaleGrid:
    """Give the grid of 4-bit floats: a scale for every few elements of a row."""
    if 0 in shape:
        raise GridError("a weight or its scales have no elements")
    rows = shape[-2] if len(shape) > 1 else 1
    return ScaleGrid(rows, shape[-1], 1, group)


def _notes(checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], found: Findings) -> list[str]:
    """Say what was found in the checkpoint."""
    forms = Counter(info.stored.text for info in tensors.values() if info.stored is not None)
    notes = [
        f"{checkpoint.path}: weights are stored as {form} ({count} of them); they are dequantised while they are read, "
        f"and the output has them in {OWN_DTYPE} unless another dtype is asked for."
        for form, count in forms.items()
    ]
    if found.dropped:
        notes.append(
            f"{checkpoint.path}: {len(found.dropped)} scales of activations or caches are left out, as no quantised "
            f"weight needs them any more: {found.dropped[0]}"
        )
    return notes

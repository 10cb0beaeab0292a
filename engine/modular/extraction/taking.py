"""Parts of stored tensors as tensors: rows and columns that are gathered while they are read."""

from __future__ import annotations

import math

import numpy as np

from dovetail.engine.modular.network.cutting import Part
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.source import Source
from dovetail.io.sources.columns import SelectedColumns
from dovetail.io.sources.gathered import GatheredSource
from dovetail.io.sources.row_map import row_map


def take(name: str, info: TensorInfo, part: Part) -> TensorInfo:
    """Describe a part of a tensor as a tensor of its own, of which nothing is read yet.

    Parameters
    ----------
    name
        What it is called.
    info
        The whole tensor.
    part
        Which rows and columns of it.

    """
    source: Source = info.source
    shape = tuple(info.shape)
    if part.rows is not None:
        donors = np.zeros(len(part.rows), np.int16)
        found = row_map(donors, part.rows.astype(np.int32))
        source = GatheredSource((source,), (info.dtype,), math.prod(shape[1:]), found, info.dtype)
        shape = (len(part.rows), *shape[1:])
    if part.columns is not None:
        source = SelectedColumns(source, math.prod(shape[1:]), math.prod(shape[2:]), part.columns)
        shape = (shape[0], len(part.columns), *shape[2:])
    return info._replace(name=name, shape=shape, source=source)

"""Which elements of a weight share a scale: found from the two shapes and from what the configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dovetail.io.sources.scale_grid import ScaleGrid

_USUAL_SIDES = (16, 32, 64, 128, 256, 512)


class GridError(Exception):
    """No grid fits the shapes; says why."""


class SeveralGridsError(GridError):
    """More than one grid fits the shapes, and the configuration does not say which it is."""


def find_grid(shape: Sequence[int], scale_shape: Sequence[int], blocks: Iterable[tuple[int, int]] = ()) -> ScaleGrid:
    """Find the grid of the scales of a weight.

    One scale for all, one for each index of leading dimensions (a row, an expert, or a row of an expert), or one for
    every block of the last two dimensions, whose last blocks may be shorter. The size of blocks is the
    configuration's where that fits; else the only size that does.

    Parameters
    ----------
    shape
        Of the weight.
    scale_shape
        Of the scales.
    blocks
        Rows and columns of the blocks that the configuration names.

    Raises
    ------
    GridError
        The scales do not fit the weight.
    SeveralGridsError
        They fit it in several ways.

    """
    shape, scale_shape = tuple(shape), tuple(scale_shape)
    if 0 in shape or 0 in scale_shape:
        raise GridError("a weight or its scales have no elements")
    if math.prod(scale_shape) == 1:
        whole = max(1, math.prod(shape))
        return ScaleGrid(1, whole, 1, whole, shared=True)
    leading = max(index + 1 for index, size in enumerate(scale_shape) if size > 1)
    if leading <= len(shape) and len(scale_shape) <= len(shape) and scale_shape[:leading] == shape[:leading]:
        columns = math.prod(shape[leading:])
        if columns == 1:
            raise GridError("there is a scale for every element")
        return ScaleGrid(math.prod(shape[:leading]), columns, 1, columns)
    if len(scale_shape) != len(shape) or len(shape) < 2:
        raise GridError("the scales have other dimensions than the weight")
    stack, scale_stack = shape[:-2], scale_shape[:-2]
    if scale_stack != stack and math.prod(scale_stack) != 1:
        raise GridError("the scales are stacked otherwise than the weight")
    (rows, columns), counts = shape[-2:], scale_shape[-2:]
    for block_rows, block_columns in blocks:
        if (-(-rows // block_rows), -(-columns // block_columns)) == counts:
            sides = min(block_rows, rows), min(block_columns, columns)
            break
    else:
        sides = _side(rows, counts[0]), _side(columns, counts[1])
    return ScaleGrid(rows, columns, *sides, shared=scale_stack != stack)


def describe(grid: ScaleGrid, shape: Sequence[int]) -> str:
    """Say which elements of a weight share a scale."""
    if grid.grid_columns == 1 and grid.grid_rows == 1 and grid.shared:
        return "one scale for all"
    if grid.grid_columns == 1 and grid.block_rows == 1:
        return "one scale for every row" if grid.columns == shape[-1] else "one scale for every matrix"
    if grid.grid_rows == 1 and grid.block_columns == 1:
        return "one scale for every column"
    return f"one scale for every {grid.block_rows} x {grid.block_columns}"


def _side(length: int, count: int) -> int:
    """Give the only side of blocks with which `count` blocks make up a length."""
    if count in (1, length):
        return length // count
    fitting = {side for side in _USUAL_SIDES if -(-length // side) == count}
    fitting |= {length // count} if length % count == 0 else set()
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting:
        raise GridError(f"no usual size of blocks makes {count} of {length} elements along a side")
    named = " or ".join(str(side) for side in sorted(fitting))
    raise SeveralGridsError(f"{count} blocks of {named} elements along a side of {length} are all possible")

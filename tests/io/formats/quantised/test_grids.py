"""Which elements share a scale: from the shapes alone where they leave no doubt, else from the configuration."""

from __future__ import annotations

import pytest

from dovetail.io.formats.quantised.grids import GridError, SeveralGridsError, describe, find_grid
from dovetail.io.sources.scale_grid import ScaleGrid

FITTING = {
    "one for all": ((6, 8), (), ScaleGrid(1, 48, 1, 48, shared=True), "one scale for all"),
    "one for a stack": ((2, 6, 8), (1, 1, 1), ScaleGrid(1, 96, 1, 96, shared=True), "one scale for all"),
    "rows": ((6, 8), (6, 1), ScaleGrid(6, 8, 1, 8), "one scale for every row"),
    "rows, flat": ((6, 6), (6,), ScaleGrid(6, 6, 1, 6), "one scale for every row"),
    "columns": ((6, 8), (1, 8), ScaleGrid(6, 8, 6, 1), "one scale for every column"),
    "experts": ((2, 6, 8), (2, 1, 1), ScaleGrid(2, 48, 1, 48), "one scale for every matrix"),
    "rows of experts": ((2, 6, 8), (2, 6), ScaleGrid(12, 8, 1, 8), "one scale for every row"),
    "128 x 128": ((256, 384), (2, 3), ScaleGrid(256, 384, 128, 128), "one scale for every 128 x 128"),
    "cut blocks": ((576, 7168), (5, 56), ScaleGrid(576, 7168, 128, 128), "one scale for every 128 x 128"),
    "groups": ((8, 96), (8, 3), ScaleGrid(8, 96, 1, 32), "one scale for every 1 x 32"),
    "one row of blocks": ((64, 256), (1, 2), ScaleGrid(64, 256, 64, 128), "one scale for every 64 x 128"),
}


@pytest.mark.parametrize("kind", FITTING)
def test_grids_that_leave_no_doubt(kind: str) -> None:
    """Each grid is found from the two shapes alone, and said in words."""
    shape, scale_shape, grid, text = FITTING[kind]
    assert grid == find_grid(shape, scale_shape)
    assert text == describe(grid, shape)


def test_the_configuration_decides() -> None:
    """Where several sizes of blocks fit, the first of the configuration that does is taken."""
    with pytest.raises(SeveralGridsError, match="2 blocks of 96 or 128 elements along a side of 192"):
        find_grid((192, 128), (2, 1))
    assert ScaleGrid(192, 128, 128, 128) == find_grid((192, 128), (2, 1), [(128, 128)])
    assert ScaleGrid(192, 128, 96, 128) == find_grid((192, 128), (2, 1), [(64, 64), (96, 128)])


def test_a_configuration_that_does_not_fit_is_not_believed() -> None:
    """Experts may have other blocks than the configuration names for the rest of a model."""
    assert ScaleGrid(8, 96, 1, 32) == find_grid((8, 96), (8, 3), [(128, 128)])


@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [((6, 8), (4, 4, 4)), ((6, 8), (5,)), ((6, 8), (6, 8)), ((6,), (3,)), ((2, 6, 8), (3, 6, 1)), ((0, 8), (0, 1))],
    ids=str,
)
def test_scales_that_do_not_fit(shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> None:
    """Scales of another rank, of no usual blocks, or for every element are an error, never a guess."""
    with pytest.raises(GridError):
        find_grid(shape, scale_shape)

"""A data set that is made, not read: small grey images of ten shapes, which a small network learns in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.modular.data.images import DataSet, Images, make_data_set

SIZE: Final = 16
"""Height and width of an image, in pixels."""
_NOISE: Final = 0.08
_SEED: Final = 20260101

Field = NDArray[np.float64]


def _disc(x: Field, y: Field) -> NDArray[np.bool_]:
    return x * x + y * y < 1


def _ring(x: Field, y: Field) -> NDArray[np.bool_]:
    distance = x * x + y * y
    return (distance < 1.1) & (distance > 0.4)


def _square(x: Field, y: Field) -> NDArray[np.bool_]:
    return np.maximum(abs(x), abs(y)) < 0.85


def _frame(x: Field, y: Field) -> NDArray[np.bool_]:
    edge = np.maximum(abs(x), abs(y))
    return (edge < 1) & (edge > 0.6)


def _triangle(x: Field, y: Field) -> NDArray[np.bool_]:
    return (abs(x) < (y + 1) / 2) & (y < 1)


def _plus(x: Field, y: Field) -> NDArray[np.bool_]:
    return (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1.1)


def _cross(x: Field, y: Field) -> NDArray[np.bool_]:
    return _plus((x + y) / 2**0.5, (x - y) / 2**0.5)


def _rows(x: Field, y: Field) -> NDArray[np.bool_]:
    return (np.sin(6 * y) > 0) & (np.maximum(abs(x), abs(y)) < 1.2)


def _columns(x: Field, y: Field) -> NDArray[np.bool_]:
    return _rows(y, x)


def _chequers(x: Field, y: Field) -> NDArray[np.bool_]:
    return (np.sin(5 * x) * np.sin(5 * y) > 0) & (np.maximum(abs(x), abs(y)) < 1.2)


SHAPES: Final[dict[str, Callable[[Field, Field], NDArray[np.bool_]]]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "plus": _plus,
    "cross": _cross,
    "rows": _rows,
    "columns": _columns,
    "chequers": _chequers,
}
"""For each class, which points belong to its shape, whose centre is 0 and whose half width is about 1."""


def make_shapes(train: int = 2000, validation: int = 500, test: int = 1000) -> DataSet:
    """Make the data set ``shapes``: ten shapes, at any place, in any size and brightness, with noise.

    Parameters
    ----------
    train, validation, test
        Number of images of each set, multiples of 10. The images are the same in every call.

    """
    sets = [
        _draw(count, np.random.default_rng([_SEED, number])) for number, count in enumerate((train, validation, test))
    ]
    return make_data_set("shapes", tuple(SHAPES), sets[0], sets[2], sets[1])


def _draw(count: int, random: np.random.Generator) -> Images:
    labels = np.arange(count, dtype=np.int64) % len(SHAPES)
    middles, radii = random.uniform(-2, 2, (count, 2, 1, 1)), random.uniform(4, 6, (count, 1, 1))
    grid = np.arange(SIZE) - (SIZE - 1) / 2
    x = (grid[None, None, :] - middles[:, 0]) / radii
    y = (grid[None, :, None] - middles[:, 1]) / radii
    x, y = np.broadcast_arrays(x, y)
    inside = np.empty((count, SIZE, SIZE))
    for label, shape in enumerate(SHAPES.values()):
        chosen = labels == label
        inside[chosen] = shape(x[chosen], y[chosen])
    dark, bright = random.uniform(0, 0.3, (count, 1, 1)), random.uniform(0.6, 1, (count, 1, 1))
    values = dark + (bright - dark) * inside + random.normal(0, _NOISE, inside.shape)
    return Images(np.rint(values.clip(0, 1) * 255).astype(np.uint8)[:, None], labels)

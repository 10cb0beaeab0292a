"""LoKr: a change that is the Kronecker product of two small matrices (https://arxiv.org/abs/2309.14859, section 3.2).

Either matrix is stored whole, or as a product of two thin ones. All arithmetic is float32, in an order that does not
depend on the range that is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.io.adapters.config import MERGE_FIRST, AdapterConfig
from dovetail.io.adapters.matrices import TILE_COLUMNS, Matrix, tiles
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import AdapterError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.intp]
    Tile = Callable[[Indices, Indices], NDArray[np.float32]]


_OUTER: Final = (frozenset(("lokr_w1",)), frozenset(("lokr_w1_a", "lokr_w1_b")))

_INNER: Final = (
    frozenset(("lokr_w2",)),
    frozenset(("lokr_w2_a", "lokr_w2_b")),
    frozenset(("lokr_w2_a", "lokr_w2_b", "lokr_t2")),
)

PARTS: Final = tuple(outer | inner for outer, inner in itertools.product(_OUTER, _INNER))
"""The sets of parts that a module may have."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A matrix that is stored as it is."""

    matrix: Matrix
    """The matrix."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.rows, self.matrix.columns

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that making tiles takes."""
        return self.matrix.nbytes + 16 * TILE_COLUMNS * TILE_COLUMNS

    def tile(self) -> Tile:
        """Read the matrix, and return a function that gives its elements in chosen rows and columns."""
        stored = self.matrix.stored(0, self.matrix.rows)
        return lambda rows, columns: self.matrix.decoded(stored[np.ix_(rows, columns)])

    def release(self) -> None:
        """Release the pages of the matrix."""
        self.matrix.release()


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix that is the product of two thin ones, with a core between them for convolutions if there is one."""

    left: Matrix
    """The left factor, rows by rank; with a core rank by rows."""
    right: Matrix
    """The right factor, rank by columns; with a core it has a column for every `kernel` columns of the product."""
    core: Matrix | None = None
    """The core, rank by rank by the size of the kernel; None for a plain product."""

    @property
    def rank(self) -> int:
        """Number of terms of the product."""
        return self.right.rows

    @property
    def kernel(self) -> int:
        """Size of the kernel; 1 without a core."""
        return 1 if self.core is None else self.core.columns // self.rank

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows = self.left.rows if self.core is None else self.left.columns
        return rows, self.right.columns * self.kernel

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that making tiles takes."""
        parts = 24 * self.rank * TILE_COLUMNS + 4 * TILE_COLUMNS * TILE_COLUMNS
        size = self.left.nbytes + self.right.nbytes + parts
        if self.core is None:
            return size
        factors = self.right.rows * self.right.columns + self.core.rows * self.core.columns
        return size + self.core.nbytes + 12 * (factors + self.rank * self.shape[1])

    def tile(self) -> Tile:
        """Read both factors, and return a function that gives the product's elements in chosen rows and columns."""
        from dovetail.io.adapters.kernels import add_product

        left = self.left.stored(0, self.left.rows)
        right = self.right.stored(0, self.right.rows)
        through = None if self.core is None else self._through_core(self.core)

        def tile(rows: Indices, columns: Indices) -> NDArray[np.float32]:
            above = self.left.decoded(left[rows] if self.core is None else left[:, rows].T)
            beside = self.right.decoded(right[:, columns]) if through is None else through[:, columns]
            result = np.zeros((rows.size, columns.size), np.float32)
            add_product(above, np.ascontiguousarray(beside), np.float32(1), result.reshape(-1), 0, columns.size)
            return result

        return tile

    def _through_core(self, core: Matrix) -> NDArray[np.float32]:
        """Multiply the core by the right factor: rank by the columns of the product."""
        middle = core.decoded(core.stored(0, core.rows)).reshape(self.rank, self.rank, self.kernel)
        right = self.right.decoded(self.right.stored(0, self.rank))
        total = np.zeros((self.rank, self.right.columns, self.kernel), np.float32)
        for index in range(self.rank):
            total += middle[:, index, np.newaxis, :] * right[index][:, np.newaxis]
        return total.reshape(self.rank, -1)

    def release(self) -> None:
        """Release the pages of all factors."""
        for matrix in (self.left, self.right, self.core):
            if matrix is not None:
                matrix.release()


@dataclass(frozen=True, slots=True)
class Kronecker:
    """LoKr: ``W + scale * kron(outer, inner)``."""

    columns: int
    """Elements of a row of W."""
    outer: Whole | Product
    """The matrix of which each element multiplies the whole other one."""
    inner: Whole | Product
    """The matrix that is repeated; its kernel dimensions, if any, are flattened with its columns."""
    scale: float
    """Factor of the product."""

    @property
    def scratch_bytes(self) -> int:
        """Most bytes of memory that `apply` takes: those of both matrices, three tiles and the indices of a tile."""
        return (
            self.outer.scratch_bytes + self.inner.scratch_bytes + 12 * TILE_COLUMNS * TILE_COLUMNS + 96 * TILE_COLUMNS
        )

    def apply(self, values: NDArray[np.float32], start: int) -> None:
        """Add the product to the elements of the flattened tensor that begin at element `start`."""
        height, width = self.inner.shape
        outer, inner = self.outer.tile(), self.inner.tile()
        for rows, columns, target in tiles(values, start, self.columns):
            down, across = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
            change = outer(down // height, across // width)
            change *= inner(down % height, across % width)
            change *= np.float32(self.scale)
            target += change
        self.outer.release()
        self.inner.release()


def fit_kronecker(
    folder: Path, config: AdapterConfig, module: str, parts: Mapping[str, TensorInfo], weight: TensorInfo
) -> Kronecker:
    """Make the change of a module's weight.

    Parameters
    ----------
    folder
        Folder of the adapter, for error messages.
    config
        Configuration of the adapter.
    module
        Name of the module in the adapter.
    parts
        Its parts, one of the sets in `PARTS`.
    weight
        The weight that is changed.

    Raises
    ------
    AdapterError
        The shapes of the parts do not fit one another, the weight or the rank that the configuration says.
    UnsupportedError
        peft would put the elements of the product elsewhere.

    """
    rank = config.rank_of(module)
    kernel = math.prod(weight.shape[2:])
    full = parts.get("lokr_w2")
    if full is not None and len(full.shape) == 3:
        raise UnsupportedError(
            f"{folder} changes the one-dimensional convolution {weight.name!r} by tensor {full.name!r}",
            "a convolution of two dimensions, or a product of two factors",
            MERGE_FIRST,
        )
    outer = _outer(parts, rank)
    inner = _inner(parts, rank, weight.shape[2:])
    if outer is not None and inner is not None and len(weight.shape) >= 2 and inner.shape[1] % kernel == 0:
        size = outer.shape[0] * inner.shape[0], outer.shape[1] * inner.shape[1]
        if size == (weight.shape[0], weight.length // weight.shape[0]):
            return Kronecker(size[1], outer, inner, config.scale(module, rank))
    shapes = ", ".join(f"{info.name!r} {list(info.shape)}" for info in (*parts.values(), weight))
    raise AdapterError(
        f"{folder}: tensors have shapes {shapes}",
        f"shapes that fit one another, and rank {rank}, as the configuration says",
        "use the model that the adapter was trained on",
    )


def _outer(parts: Mapping[str, TensorInfo], rank: int) -> Whole | Product | None:
    """Take the outer matrix from a module's parts; None if their shapes do not fit one another."""
    if "lokr_w1" in parts:
        info = parts["lokr_w1"]
        return Whole(Matrix.of(info, info.shape[0])) if len(info.shape) == 2 else None
    return _product(parts["lokr_w1_a"], parts["lokr_w1_b"], rank)


def _inner(parts: Mapping[str, TensorInfo], rank: int, kernel: tuple[int, ...]) -> Whole | Product | None:
    """Take the inner matrix from a module's parts; None if their shapes do not fit one another or the kernel."""
    if "lokr_w2" in parts:
        info = parts["lokr_w2"]
        return (
            Whole(Matrix.of(info, info.shape[0])) if len(info.shape) >= 2 and info.shape[2:] in ((), kernel) else None
        )
    left, right = parts["lokr_w2_a"], parts["lokr_w2_b"]
    core = parts.get("lokr_t2")
    if core is None:
        return _product(left, right, rank)
    if core.shape[:2] != (rank, rank) or math.prod(core.shape[2:]) != math.prod(kernel):
        return None
    if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[0] != rank or right.shape[0] != rank:
        return None
    return Product(Matrix.of(left, rank), Matrix.of(right, rank), Matrix.of(core, rank))


def _product(left: TensorInfo, right: TensorInfo, rank: int) -> Product | None:
    if len(left.shape) != 2 or len(right.shape) != 2 or (left.shape[1], right.shape[0]) != (rank, rank):
        return None
    return Product(Matrix.of(left, left.shape[0]), Matrix.of(right, rank))

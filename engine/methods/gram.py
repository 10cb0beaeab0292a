"""Singular vectors of matrices that are larger than memory, through the Gram matrix of their smaller side.

A Gram matrix holds the dot products of all columns of a matrix, or of all its rows. Its eigenvectors are singular
vectors of the matrix, and the roots of its eigenvalues the singular values. All sums are float64, in an order that the
shape of the matrix decides.

A Gram matrix has the squares of the singular values, so that rounding, which is relative to the largest square, weighs
the more the smaller a singular value is: one that is a share q of the largest is known to about 1e-16 / q^2. Those for
which nothing can be said count as zero (`spectrum_of`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.low_rank import LEAST_RATIO, Matrix, Spectrum

PANEL = 1 << 20
"""Elements of a matrix that are multiplied at a time."""

EIGEN_MATRICES = 5
"""Matrices of the size of a Gram matrix that exist at once while its eigenvectors are found: itself, the vectors, a
copy of them and two of working memory in LAPACK."""


def spectrum_of(gram: Matrix) -> Spectrum:
    """Find the singular vectors and values of a matrix from its Gram matrix, the largest first.

    Parameters
    ----------
    gram
        Float64[n, n], finite; only its lower triangle is looked at.

    Returns
    -------
    Spectrum
        Those whose square is more than n times the machine's epsilon, and more than 1e-14, of the largest square:
        eigenvalues below that may be mere rounding errors. All are counted as zero if the matrix is.

    """
    if not gram.size:
        return Spectrum(gram, np.zeros(0))
    squares, vectors = np.linalg.eigh(gram)
    squares, vectors = squares[::-1], vectors[:, ::-1]
    least = max(LEAST_RATIO**2, float(np.finfo(np.float64).eps) * len(gram)) * max(squares[0], 0.0)
    count = int((squares > least).sum())
    return Spectrum(vectors[:, :count], np.sqrt(squares[:count]))


def inverse_root(gram: Matrix) -> Matrix:
    """Give G^(-1/2) on the space where G is not zero, and zero elsewhere.

    For vectors with the Gram matrix G, as columns of Q, ``Q G^(-1/2)`` are the orthonormal vectors nearest to them: the
    answer to Procrustes' problem.
    """
    found = spectrum_of(gram)
    return np.asarray((found.vectors / found.values) @ found.vectors.T)


def panel_rows(rows: int, columns: int) -> int:
    """Give the number of rows that a matrix's panels have, but for the last one."""
    return max(1, min(rows, PANEL // max(1, columns)))


class ColumnProducts:
    """The Gram matrix of the columns of a matrix whose elements come in order, row by row.

    Parameters
    ----------
    rows, columns
        Shape of the matrix.

    """

    def __init__(self, rows: int, columns: int) -> None:
        self._gram = np.zeros((columns, columns))
        self._panel = np.empty(panel_rows(rows, columns) * columns)
        self._columns, self._filled = columns, 0

    @staticmethod
    def held_bytes(rows: int, columns: int) -> int:
        """Compute the bytes of an instance, with the sum of a panel's products."""
        return 8 * (2 * columns**2 + panel_rows(rows, columns) * columns)

    def add(self, elements: NDArray[np.floating]) -> None:
        """Take the next elements, of one dimension, in any portions."""
        begin = 0
        while begin < len(elements):
            count = min(len(elements) - begin, len(self._panel) - self._filled)
            self._panel[self._filled : self._filled + count] = elements[begin : begin + count]
            begin, self._filled = begin + count, self._filled + count
            if self._filled == len(self._panel):
                self._multiply()

    def take(self) -> Matrix:
        """Give the Gram matrix away, when all elements are in."""
        self._multiply()
        gram, self._gram = self._gram, np.zeros((0, 0))
        return gram

    def _multiply(self) -> None:
        part = self._panel[: self._filled].reshape(self._filled // max(1, self._columns), self._columns)
        with np.errstate(all="ignore"):
            self._gram += part.T @ part
        self._filled = 0


class Gathered:
    """A matrix whose elements come in order, row by row, gathered whole: one that has fewer rows than columns.

    Its Gram matrix is that of its rows. It is gathered because each row of a result needs all of them.

    Parameters
    ----------
    rows, columns
        Its shape.
    dtype
        How it is kept.

    """

    def __init__(self, rows: int, columns: int, dtype: type) -> None:
        self._values: NDArray[np.floating] = np.empty(rows * columns, dtype)
        self._shape, self._filled = (rows, columns), 0

    @staticmethod
    def held_bytes(rows: int, columns: int, itemsize: int) -> int:
        """Compute the bytes of an instance, with a panel in float64 and its products."""
        return itemsize * rows * columns + 8 * (rows**2 + panel_rows(columns, rows) * rows)

    def add(self, elements: NDArray[np.floating]) -> None:
        """Take the next elements, of one dimension, in any portions."""
        self._values[self._filled : self._filled + len(elements)] = elements
        self._filled += len(elements)

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The whole matrix, when all elements are in."""
        return self._values.reshape(self._shape)

    def gram(self) -> Matrix:
        """Compute the dot products of its rows."""
        rows, columns = self._shape
        found, step = np.zeros((rows, rows)), panel_rows(columns, rows)
        with np.errstate(all="ignore"):
            for first in range(0, columns, step):
                part = self.matrix[:, first : first + step].astype(np.float64)
                found += part @ part.T
        return found

    def multiplied(self, left: Matrix) -> Matrix:
        """Compute ``left @ matrix`` in float64."""
        rows, columns = self._shape
        found, step = np.empty((len(left), columns)), panel_rows(columns, rows)
        for first in range(0, columns, step):
            found[:, first : first + step] = left @ self.matrix[:, first : first + step].astype(np.float64)
        return found

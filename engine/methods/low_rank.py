"""The best low-rank approximation of a matrix that is read in chunks of rows, by subspace iteration.

N. Halko, P. Martinsson, J. Tropp, "Finding structure with randomness", https://arxiv.org/abs/0909.4061, section 4.5.
The iteration is on D'D, which needs one pass over the rows of D for each step: an orthonormal basis Q, of as many
columns as the wanted rank and some more, is replaced by a basis of (D'D) Q. The eigenvectors of Q'(D'D) Q then give the
right singular vectors, and the left factor follows from them chunk by chunk. Memory holds matrices of the size of Q.

Everything is float64: iterating on D'D squares the ratios of singular values, and float32 would lose those below 3e-4
of the largest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.methods.uniform import uniform

Matrix = NDArray[np.float64]

OVERSAMPLING = 16
"""Columns of the basis beyond the wanted rank."""

LEAST_RATIO = 1e-7
"""Singular values up to this share of the largest one count as zero, because they may be mere rounding errors."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What the iteration has found of a matrix D."""

    vectors: Matrix
    """Right singular vectors as columns, by falling singular value."""
    values: NDArray[np.float64]
    """Their singular values, none of them counted as zero."""


def basis_width(rows: int, columns: int, rank: int) -> int:
    """Give the number of columns of the basis for a matrix and a wanted rank."""
    return min(columns, rows, rank + OVERSAMPLING)


def first_basis(name: str, columns: int, width: int, seed: int) -> Matrix:
    """Give the first orthonormal basis: a random one, or one of the whole space if the width suffices for that.

    Parameters
    ----------
    name
        Name of the matrix, so that each matrix gets other random numbers.
    columns, width
        Shape of the basis.
    seed
        Seed of the random numbers, which are uniform.

    """
    if width == columns:
        return np.eye(columns)
    return orthonormal(uniform(name, columns * width, seed).reshape(columns, width))


def orthonormal(matrix: Matrix) -> Matrix:
    """Give an orthonormal basis of the space of a matrix's columns, filled up to as many columns where they depend."""
    return np.asarray(np.linalg.qr(matrix)[0])


def image(chunk: Matrix, basis: Matrix) -> Matrix:
    """Give what some rows of D contribute to (D'D) Q."""
    return chunk.T @ (chunk @ basis)


def spectrum(basis: Matrix, total: Matrix) -> Spectrum:
    """Find singular vectors and values.

    Parameters
    ----------
    basis
        Q, orthonormal.
    total
        (D'D) Q.

    """
    squares, turns = np.linalg.eigh(basis.T @ total)
    squares, turns = np.maximum(squares[::-1], 0.0), turns[:, ::-1]
    count = int((squares > LEAST_RATIO**2 * squares[0]).sum())
    return Spectrum(basis @ turns[:, :count], np.sqrt(squares[:count]))


def needed_rank(values: NDArray[np.float64], square: float, most: int, energy: float | None) -> int:
    """Give the least rank that keeps a share of a matrix's energy, or as much as may be.

    Parameters
    ----------
    values
        Singular values, falling.
    square
        The sum of the squares of all its elements: its energy.
    most
        The greatest rank allowed.
    energy
        The share to keep; None to use the greatest rank allowed.

    """
    most = min(most, len(values))
    if energy is None:
        return most
    kept = np.cumsum(values[:most] ** 2)
    return min(most, int(np.searchsorted(kept, energy * square)) + 1)


def right_factor(found: Spectrum, rank: int) -> Matrix:
    """Give the right factor: the leading singular vectors as rows, each times the root of its singular value."""
    return np.ascontiguousarray((found.vectors[:, :rank] * np.sqrt(found.values[:rank])).T)


def right_inverse(right: Matrix) -> Matrix:
    """Give the matrix P for which D P is the left factor that, with a right factor as stored, comes closest to D."""
    return right.T @ np.linalg.inv(right @ right.T)

"""Methods that decompose matrices, by numpy's singular value decomposition in float64, rounded once at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.oracles.result import Case, Doubles, Result, rounded

ZERO = 1e-6
"""Singular values up to this share of the largest count as zero."""
CLEAR = 1e-3
"""Singular values above this share of the largest are certainly not zero."""


def _weighted(case: Case) -> list[Doubles]:
    taus = [tau.astype(np.float64) for tau in case.taus()]
    return [float(weight) * tau for weight, tau in zip(case.each("weight"), taus, strict=True)]


def is_matrix(shape: tuple[int, ...], decompose: str) -> bool:
    """Whether a tensor is decomposed."""
    return (len(shape) == 2 and decompose != "none") or (len(shape) > 2 and decompose == "all")


def _matrices(case: Case) -> list[Doubles] | None:
    """Give the weighted task vectors as matrices; None if they are to be averaged."""
    if not is_matrix(case.origin.shape, case.parameters["decompose"]):
        return None
    return [tau.reshape(len(tau), -1) for tau in _weighted(case)]


def _result(case: Case, change: Doubles) -> Result:
    change = float(case.parameters["lambda"]) * change.reshape(case.origin.shape)
    # All elements take part in the computation of each.
    greatest = np.full(case.origin.shape, np.abs(change).max(initial=0.0))
    return rounded(case.origin.astype(np.float64) + change, case.origin, greatest, *case.taus())


def _mean(case: Case) -> Result:
    return _result(case, np.asarray(np.mean(_weighted(case), axis=0)))


def orthonormal(vectors: Doubles) -> Doubles:
    """Give the orthonormal columns nearest to some, on the space that these span (Procrustes' problem)."""
    left, values, right = np.linalg.svd(vectors, full_matrices=False)
    used = values > ZERO * values.max(initial=0.0)
    return np.asarray(left[:, used] @ right[used])


def singular(matrix: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Decompose a matrix, without the directions that count as zero."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    used = values > ZERO * values.max(initial=0.0)
    return left[:, used], values[used], right[used]


def tsv_m(case: Case) -> Result:
    """Keep each task's strongest singular directions, and make them orthogonal to the others' (arXiv:2412.00081)."""
    matrices = _matrices(case)
    rank = 0 if matrices is None else min(matrices[0].shape) // len(matrices)
    if matrices is None or rank == 0:
        return _mean(case)
    parts = [singular(matrix) for matrix in matrices]
    left = orthonormal(np.hstack([part[0][:, :rank] for part in parts]))
    right = orthonormal(np.vstack([part[2][:rank] for part in parts]).T)
    return _result(case, left * np.concatenate([part[1][:rank] for part in parts]) @ right.T)


def iso_c(case: Case) -> Result:
    """Give every singular direction of the sum of task vectors the mean of its singular values (arXiv:2502.04959)."""
    matrices = _matrices(case)
    if matrices is None:
        return _mean(case)
    total = np.asarray(sum(matrices))
    left, values, right = singular(total)
    return _result(case, values.sum() / min(total.shape) * (left @ right))


def _clear(matrix: Doubles) -> bool:
    """Whether each singular value is certainly zero, or certainly not."""
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values / max(values.max(initial=0.0), 1e-300)
    return bool(((shares < 1e-10) | (shares > CLEAR)).all())


def is_well_posed(matrices: Sequence[Doubles]) -> bool:
    """Whether both methods have one right result for task vectors: where truncation cuts, values differ clearly.

    Parameters
    ----------
    matrices
        Weighted task vectors, of two dimensions.

    """
    rank = min(matrices[0].shape) // len(matrices)
    if not all(map(_clear, (*matrices, np.asarray(sum(matrices))))):
        return False
    for matrix in matrices:
        values = np.append(np.linalg.svd(matrix, compute_uv=False), 0.0)
        if rank and values[rank - 1] - values[rank] < CLEAR * values[0] and values[rank - 1] > ZERO * values[0]:
            return False
    parts = [singular(matrix) for matrix in matrices]
    return _clear(np.hstack([part[0][:, :rank] for part in parts])) and _clear(
        np.vstack([part[2][:rank] for part in parts])
    )

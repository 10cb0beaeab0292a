"""Low-rank approximation against numpy's singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.methods import low_rank


def matrix(rows: int, columns: int, decay: float, seed: int = 0) -> NDArray[np.float64]:
    """Make a matrix whose i-th singular value is ``i ** -decay``."""
    random = np.random.default_rng(seed)
    size = min(rows, columns)
    left = np.linalg.qr(random.standard_normal((rows, size)))[0]
    right = np.linalg.qr(random.standard_normal((columns, size)))[0]
    return np.asarray((left * np.arange(1, size + 1.0) ** -decay) @ right.T)


def approximate(values: NDArray[np.float64], rank: int, iterations: int = 3) -> tuple[low_rank.Spectrum, float]:
    """Run the iteration on a whole matrix; give what it finds, and what the best left factor leaves."""
    width = low_rank.basis_width(*values.shape, rank)
    basis = low_rank.first_basis("w", values.shape[1], width, 0)
    for _ in range(iterations):
        basis = low_rank.orthonormal(low_rank.image(values, basis))
    found = low_rank.spectrum(basis, low_rank.image(values, basis))
    right = low_rank.right_factor(found, min(rank, len(found.values)))
    left = values @ low_rank.right_inverse(right)
    return found, float(np.linalg.norm(values - left @ right))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (200, 150), (3, 400), (400, 3), (1, 1), (1, 50)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.5])
def test_nearly_optimal(shape: tuple[int, int], decay: float) -> None:
    """What is left is within one per cent of the least that any matrix of that rank leaves."""
    values = matrix(*shape, decay)
    singular = np.linalg.svd(values, compute_uv=False)
    for rank in (1, 5, 20):
        _, error = approximate(values, rank)
        optimum = float(np.sqrt((singular[rank:] ** 2).sum()))
        assert optimum * (1 - 1e-9) - 1e-12 <= error <= 1.01 * optimum + 1e-7


def test_more_iterations_come_closer() -> None:
    """Without a step the error is larger than with some: the iteration does something."""
    values = matrix(300, 260, 0.3)
    errors = [approximate(values, 20, iterations)[1] for iterations in (0, 1, 3)]
    assert errors[0] > 1.02 * errors[1] > 1.02 * errors[2]


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_low_rank_matrices_are_found_exactly(rank: int) -> None:
    """A matrix of at most the wanted rank is recovered to rounding, and its rank is known."""
    random = np.random.default_rng(0)
    values = random.standard_normal((120, rank)) @ random.standard_normal((rank, 200))
    found, error = approximate(values, 12)
    assert rank == len(found.values)
    assert error <= 1e-12 * np.linalg.norm(values)
    np.testing.assert_allclose(found.values, np.linalg.svd(values, compute_uv=False)[:rank], rtol=1e-10)


def test_the_first_basis() -> None:
    """Bases are orthonormal, the same each time, and others for another name or seed."""
    basis = low_rank.first_basis("a", 50, 20, 7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(20), atol=1e-14)
    assert np.array_equal(basis, low_rank.first_basis("a", 50, 20, 7))
    assert not np.allclose(basis, low_rank.first_basis("b", 50, 20, 7))
    assert not np.allclose(basis, low_rank.first_basis("a", 50, 20, 8))
    assert np.array_equal(np.eye(20), low_rank.first_basis("a", 20, 20, 7))


@pytest.mark.parametrize(
    ("energy", "most", "expected"),
    [(None, 3, 3), (None, 9, 4), (0.5, 9, 1), (0.64, 9, 1), (0.65, 9, 2), (0.99, 9, 4), (1.0, 9, 4), (0.99, 2, 2)],
)
def test_the_least_rank_that_keeps_the_energy(energy: float | None, most: int, expected: int) -> None:
    """Of the values 8, 4, 4, 2, whose squares sum up to 100, as many as needed are taken."""
    values = np.array([8.0, 4.0, 4.0, 2.0])
    assert expected == low_rank.needed_rank(values, 100.0, most, energy)

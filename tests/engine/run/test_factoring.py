"""Factoring two stored tensors, chunk by chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.extraction.modules import Kind
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.run import differences
from dovetail.engine.run.factoring import Factoring, Factors
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import NonFiniteError
from dovetail.io.opening import read_checkpoint
from tests.checkpoints import BF16, write_checkpoint


def store(folder: Path, **tensors: NDArray[Any]) -> dict[str, TensorInfo]:
    """Write tensors and open them again."""
    return dict(read_checkpoint(write_checkpoint(folder, tensors)).tensors)


def pair_of(folder: Path, old: NDArray[Any], new: NDArray[Any]) -> TensorPair:
    """Store both matrices."""
    return TensorPair(
        "w.weight", Kind.LINEAR, store(folder / "new", w=new)["w"], store(folder / "old", w=old)["w"], "w.weight"
    )


def ignore(read_bytes: int) -> None:
    """Take no notice of progress."""


def run(pair: TensorPair, workers: int = 1, **options: Any) -> Factors | None:
    """Factor one pair."""
    with Factoring(("tuned", "base"), ExtractionOptions(**options), workers, ignore) as factors:
        return factors.factor(pair)


def fine_tune(shape: tuple[int, int], dtype: Any = np.float32, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make a matrix and a changed one; the change has full rank and some strong directions."""
    random = np.random.default_rng(seed)
    old = (random.standard_normal(shape) * 0.02).astype(dtype)
    change = random.standard_normal((shape[0], 6)) @ random.standard_normal((6, shape[1])) * 1e-3
    change += random.standard_normal(shape) * 1e-3
    return old, (old.astype(np.float64) + change).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16], ids=str)
def test_close_to_the_optimum_and_truly_measured(tmp_path: Path, dtype: Any) -> None:
    """The product of the stored factors is near the best of its rank, and what the report says of it is so."""
    old, new = fine_tune((150, 110), dtype)
    change = new.astype(np.float64) - old.astype(np.float64)
    found = run(pair_of(tmp_path, old, new), rank=8, dtype="float32", alpha=3.0)
    assert found is not None
    left = change - found.scale * (found.left.astype(np.float64) @ found.right.astype(np.float64))
    assert 3 / 8 == found.scale
    np.testing.assert_allclose(found.energy, (change**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(found.residual, (left**2).sum(), rtol=1e-9)
    best = (np.linalg.svd(change, compute_uv=False)[8:] ** 2).sum()
    assert best * (1 - 1e-9) <= found.residual <= 1.01 * best


def test_factors_in_bfloat16_fit_each_other(tmp_path: Path) -> None:
    """The left factor makes good what rounding does to the right one: the energy kept falls by less than 1e-4."""
    old, new = fine_tune((150, 110))
    exact, rounded = (run(pair_of(tmp_path / name, old, new), rank=8, dtype=name) for name in ("float32", "bfloat16"))
    assert exact is not None
    assert rounded is not None
    assert BF16 == rounded.left.dtype == rounded.right.dtype
    assert exact.residual <= rounded.residual <= exact.residual + 1e-4 * exact.energy


@pytest.mark.parametrize("workers", [1, 3])
def test_neither_workers_nor_repetition_change_a_bit(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grid of chunks is fixed and sums are taken in its order; another grid gives the same but for rounding."""
    old, new = fine_tune((150, 110))
    pair = pair_of(tmp_path, old, new)
    whole = run(pair, rank=8, dtype="float32")
    monkeypatch.setattr(differences, "CHUNK_ELEMENTS", 1300)
    found, again = run(pair, workers, rank=8, dtype="float32"), run(pair, rank=8, dtype="float32")
    assert whole is not None
    assert found is not None
    assert again is not None
    assert np.array_equal(found.left, again.left)
    assert np.array_equal(found.right, again.right)
    assert (found.residual, found.energy) == (again.residual, again.energy)
    np.testing.assert_allclose(found.residual, whole.residual, rtol=1e-6)


def test_by_energy(tmp_path: Path) -> None:
    """The least rank that keeps the share is taken, and one less would not have kept it."""
    old, new = fine_tune((150, 110))
    change = new.astype(np.float64) - old.astype(np.float64)
    found = run(pair_of(tmp_path, old, new), energy=0.9, rank=100, dtype="float32")
    assert found is not None
    kept = np.cumsum(np.linalg.svd(change, compute_uv=False) ** 2) / (change**2).sum()
    assert int((kept < 0.9).sum()) + 1 == found.rank
    assert 1 - found.residual / found.energy == pytest.approx(kept[found.rank - 1], rel=1e-4)


def test_nothing_changed(tmp_path: Path) -> None:
    """Equal numbers, be they of other dtypes or zeros of other signs, leave nothing to factor."""
    old = np.array([[1.0, 0.0], [-0.5, 2.0]], np.float32)
    assert run(pair_of(tmp_path, old, np.where(old == 0, -0.0, old).astype(np.float64))) is None


@pytest.mark.parametrize("where", ["new", "old"])
def test_numbers_that_are_not_finite(tmp_path: Path, where: str) -> None:
    """A NaN is an error that says in which model, tensor and element it is."""
    old, new = fine_tune((30, 20))
    (new if where == "new" else old)[3, 4] = np.nan
    with pytest.raises(
        NonFiniteError, match=f"^{'tuned' if where == 'new' else 'base'}: tensor 'w' holds nan at element 64"
    ):
        run(pair_of(tmp_path, old, new))


def test_factors_too_large_for_their_dtype(tmp_path: Path) -> None:
    """Overflow in float16 is an error that names the dtype to use."""
    old = np.zeros((20, 20), np.float32)
    with pytest.raises(RecipeError, match="float16"):
        run(pair_of(tmp_path, old, old + 1e12), dtype="float16")

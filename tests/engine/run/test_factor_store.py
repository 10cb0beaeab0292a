"""Factors on the disk between one run of an extraction and the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail.engine.errors import OutputError
from dovetail.engine.planning.extraction.modules import Kind
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.run.factor_store import FactorStore, is_store_of, tensors_of
from dovetail.engine.run.factoring import Factors
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.dtypes import DTYPES
from dovetail.io.opening import read_checkpoint
from tests.checkpoints import write_checkpoint

F32 = DTYPES["F32"]


def made(tmp_path: Path, *shape: int, kind: Kind = Kind.LINEAR) -> tuple[TensorPair, Factors]:
    """Make a pair and factors of rank 2 for it."""
    info: TensorInfo = read_checkpoint(
        write_checkpoint(tmp_path / "model", {"a.weight": np.zeros(shape, np.float32)})
    ).tensors["a.weight"]
    random = np.random.default_rng(0)
    left = random.standard_normal((shape[0], 2)).astype(np.float32)
    right = random.standard_normal((2, int(np.prod(shape[1:])))).astype(np.float32)
    return TensorPair("a.weight", kind, info, info, "a.weight"), Factors(left, right, 1.0, 100.0, 1.0)


def test_what_was_added_is_found(tmp_path: Path) -> None:
    """Report and tensors come back; what was never added, or belongs to other work, does not."""
    pair, factors = made(tmp_path, 5, 7)
    (tmp_path / "store").mkdir()
    store = FactorStore(tmp_path / "store", "h")
    added = store.add(3, pair, factors, F32)
    found = FactorStore(tmp_path / "store", "h").find(3)
    assert found is not None
    assert added[0] == found[0]
    assert (2, 10.0, 0.99, 0.1) == (found[0].rank, found[0].norm, found[0].kept, found[0].error)
    assert ["base_model.model.a.lora_A.weight", "base_model.model.a.lora_B.weight"] == list(found[1].tensors)
    assert store.find(2) is None
    with pytest.raises(OutputError, match="--restart"):
        FactorStore(tmp_path / "store", "other")


def test_a_matrix_that_did_not_change(tmp_path: Path) -> None:
    """It is remembered without tensors."""
    pair, _ = made(tmp_path, 5, 7)
    (tmp_path / "store").mkdir()
    report, checkpoint = FactorStore(tmp_path / "store", "h").add(0, pair, None, F32)
    assert (0, 1.0) == (report.rank, report.kept)
    assert {} == checkpoint.tensors


def test_damaged_files_are_made_again(tmp_path: Path) -> None:
    """What cannot be read counts as not done."""
    pair, factors = made(tmp_path, 5, 7)
    (tmp_path / "store").mkdir()
    store = FactorStore(tmp_path / "store", "h")
    store.add(0, pair, factors, F32)
    path = tmp_path / "store/000000.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert store.find(0) is None


@pytest.mark.parametrize(
    ("kind", "shape", "names"),
    [
        (Kind.LINEAR, (5, 7), ("lora_A.weight", "lora_B.weight")),
        (Kind.TRANSPOSED, (5, 7), ("lora_A.weight", "lora_B.weight")),
        (Kind.EMBEDDING, (5, 7), ("lora_embedding_A", "lora_embedding_B")),
        (Kind.LINEAR, (5, 3, 2, 2), ("lora_A.weight", "lora_B.weight")),
    ],
)
def test_the_product_is_the_change(tmp_path: Path, kind: Kind, shape: tuple[int, ...], names: tuple[str, str]) -> None:
    """B times A is what the factors multiply to, transposed where peft transposes it, for every kind of module."""
    pair, factors = made(tmp_path, *shape, kind=kind)
    tensors = tensors_of(pair, factors)
    a, b = (tensors[f"base_model.model.a.{name}"] for name in names)
    product = np.einsum("or,r...->o...", b.reshape(b.shape[0], -1), a)
    expected = (factors.left @ factors.right).reshape(shape)
    np.testing.assert_allclose(product.T if kind.turned else product, expected, rtol=1e-5)


def test_an_identity_that_is_nested_too_deeply(tmp_path: Path) -> None:
    """What an earlier extraction says of itself is damaged, and no error of Python, however deep it is."""
    (tmp_path / "dovetail_extraction.json").write_text('{"a":' * 800)
    assert not is_store_of(tmp_path, "x")
    (tmp_path / "dovetail_extraction.json").write_text("[" * 4_000)
    assert not is_store_of(tmp_path, "x")

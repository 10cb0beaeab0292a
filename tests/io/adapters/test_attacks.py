"""Hostile adapters: refused for what they are, soon, in a line of bearable length, and before any data is read."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint
from tests.attacks.adapters import ADAPTER_ATTACKS, MODEL, AdapterAttack, lora, write_attack

LONGEST_SECONDS = 15.0
"""Most processor time; only expressions made to last take more than one."""


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    """Make the model that attacks are made for."""
    tensors = {name: np.zeros(shape, np.int32 if "ids" in name else np.float32) for name, shape in MODEL.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("attack", ADAPTER_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_adapters(attack: AdapterAttack, model: Checkpoint, tmp_path: Path) -> None:
    """Each defect is named, with the adapter, by an error of its kind."""
    write_attack(attack, tmp_path / "adapter")
    began = time.process_time()
    with pytest.raises(attack.error) as caught:
        apply_adapter(model, read_adapter(tmp_path / "adapter"))
    assert time.process_time() - began < LONGEST_SECONDS
    text = str(caught.value)
    assert attack.error is type(caught.value)
    assert attack.text in text
    assert str(tmp_path) in text
    assert len(text) < 1_500
    assert text.isprintable()


def test_none_of_it_refuses_a_good_one(model: Checkpoint, tmp_path: Path) -> None:
    """The adapter that attacks change is good, and an adapter is applied once only."""
    write_attack(AdapterAttack("", "", lora()), tmp_path / "adapter")
    applied = apply_adapter(model, read_adapter(tmp_path / "adapter"))
    assert applied.adapter is not None
    assert 1 == applied.adapter.tensor_count
    with pytest.raises(ValueError, match="has an adapter already"):
        apply_adapter(applied, read_adapter(tmp_path / "adapter"))

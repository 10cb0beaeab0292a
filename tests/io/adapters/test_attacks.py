"""Hostile adapters: refused for what they are, soon, in a line of bearable length, and before any data is read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from dovetail.io.adapters import apply_adapter, read_adapter
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError
from dovetail.io.opening import read_checkpoint
from tests.attacks.adapters import ADAPTER_ATTACKS, CONFIG, MODEL, WEIGHTS, AdapterAttack, Q, lora, write_attack
from tests.pace import within

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
    with within(LONGEST_SECONDS), pytest.raises(attack.error) as caught:
        apply_adapter(model, read_adapter(tmp_path / "adapter"))
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


KEYS = (
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "q",
    "modules_to_save", "init_lora_weights", "trainable_token_indices", "task_type", "layer_replication",
    "init_r", "target_parameters",
)  # fmt: skip
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.sampled_from(["LORA", "IA3", "LOHA", "LOKR", "ADALORA"]),
)
VALUES = st.one_of(
    PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(st.text("q.*([+|\\", max_size=6), PLAIN, max_size=2)
)


@given(said=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_configuration(said: dict[str, Any], model: Checkpoint, tmp_path: Path) -> None:
    """Whatever a configuration says, it is heeded or refused by an error of ours."""
    write_attack(AdapterAttack("", "", lora()), tmp_path / "adapter")
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps(usual | said))
    with contextlib.suppress(CheckpointError):
        apply_adapter(model, read_adapter(tmp_path / "adapter"))


PARTS = (
    "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l", "weight", "bias",
    "default", "lora_E", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "base_layer",
    "modules_to_save", "trainable_tokens_delta", "original_module", Q, "",
)  # fmt: skip
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join)
SHAPES = st.lists(st.sampled_from([1, 2, 4, 6]), max_size=3).map(tuple)


@given(st.dictionaries(NAMES, SHAPES, max_size=4), st.sampled_from(["LORA", "IA3", "LOKR", "ADALORA"]))
def test_any_tensors(model: Checkpoint, tmp_path: Path, shapes: dict[str, tuple[int, ...]], kind: str) -> None:
    """Whatever tensors there are, they are applied or refused by an error of ours; what is applied can be read."""
    attack = AdapterAttack("", "", lora(), {"peft_type": kind, "alpha": 2, "init_r": 2, "trainable_token_indices": [0]})
    write_attack(attack, tmp_path / "adapter")
    tensors = {f"base_model.model.{Q}.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "adapter" / WEIGHTS)
    with contextlib.suppress(CheckpointError):
        for info in apply_adapter(model, read_adapter(tmp_path / "adapter")).tensors.values():
            assert info.nbytes == info.source.read(0, info.length).size

"""Hostile PyTorch files: refused for what they are, soon, and nothing of them runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.io.formats import torch_catalogue, torch_reader
from dovetail.io.opening import read_checkpoint
from tests.attacks.torch_files import TORCH_ATTACKS, TorchAttack, good
from tests.pace import within
from tests.torch_child import list_in_new_child


@pytest.mark.parametrize("attack", TORCH_ATTACKS, ids=lambda attack: attack.id)
def test_hostile_torch_files(attack: TorchAttack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each defect is named; no code runs, here or in the process that PyTorch has of its own."""
    monkeypatch.chdir(tmp_path)
    if attack.id == "runs a command":  # one of them there is enough: PyTorch takes seconds to load
        monkeypatch.setattr(torch_reader, "list_tensors", list_in_new_child)
    else:
        monkeypatch.setattr(torch_reader, "list_tensors", lambda paths: [torch_catalogue.catalogue(p) for p in paths])
    path = tmp_path / "model.pt"
    attack.build(path)
    with within(5), pytest.raises(attack.error) as caught:
        read_checkpoint(path)
    assert attack.error is type(caught.value)
    assert attack.text in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert [path] == list(tmp_path.iterdir())


def test_the_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the attacks are made of is no attack."""
    monkeypatch.setattr(torch_reader, "list_tensors", lambda paths: [torch_catalogue.catalogue(p) for p in paths])
    (tmp_path / "model.pt").write_bytes(good())
    assert (100,) == read_checkpoint(tmp_path / "model.pt").tensors["w"].shape

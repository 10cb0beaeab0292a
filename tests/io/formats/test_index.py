"""Indexes: every false statement is named, and no file outside the checkpoint is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.io.errors import IndexFileError, UnsupportedError
from dovetail.io.formats import safetensors_reader
from dovetail.io.formats.index import read_index, resolve_in_folder
from dovetail.io.opening import read_checkpoint
from tests.attacks.indexes import INDEX, INDEX_ATTACKS, IndexAttack, save
from tests.io.samples import write_index


@pytest.mark.parametrize("attack", INDEX_ATTACKS, ids=lambda attack: attack.id)
def test_attacks_are_refused(attack: IndexAttack, tmp_path: Path) -> None:
    """Each false statement raises its error, with a text that names file and tensor."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save(tmp_path / "outside.safetensors", "w")
    attack.build(folder)
    with pytest.raises(attack.error) as caught:
        read_checkpoint(folder)
    assert attack.error is type(caught.value)
    expected = attack.text.replace("{folder}", str(folder)).replace("{index}", str(folder / INDEX))
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 700


def test_good_index_is_read(tmp_path: Path) -> None:
    """The weight map of a valid index is returned unchanged."""
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    assert weight_map == read_index(write_index(tmp_path, weight_map))


def test_hub_cache_is_followed(tmp_path: Path) -> None:
    """A snapshot in the hub's cache, a folder of links into ``blobs``, can be read."""
    snapshot = tmp_path / "models--x--y" / "snapshots" / "0123abc"
    blobs = tmp_path / "models--x--y" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    weight_map = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        save(blobs / f"hash{number}", f"w{number}")
        (snapshot / name).symlink_to(f"../../blobs/hash{number}")
        weight_map[f"w{number}"] = name
    write_index(snapshot, weight_map).rename(blobs / "hash3")
    (snapshot / INDEX).symlink_to("../../blobs/hash3")
    checkpoint = read_checkpoint(snapshot)
    assert ["w1", "w2"] == list(checkpoint.tensors)
    assert bytes(8) == checkpoint.tensors["w1"].source.read(0, 2).tobytes()


def test_blobs_elsewhere_are_no_hub_cache(tmp_path: Path) -> None:
    """Links are followed only from a folder under ``snapshots`` to the ``blobs`` beside ``snapshots``."""
    blobs = tmp_path / "blobs"
    for folder in (tmp_path / "x" / "snapshots" / "0123", tmp_path / "rev"):
        folder.mkdir(parents=True)
        blobs.mkdir(exist_ok=True)
        save(blobs / "hash", "w")
        (folder / "model.safetensors").symlink_to(blobs / "hash")
        with pytest.raises(IndexFileError, match="leads outside its folder"):
            read_checkpoint(folder)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    """A link to another place in the same folder is followed, even if the folder itself is reached by a link."""
    real = tmp_path / "real"
    (real / "data").mkdir(parents=True)
    save(real / "data" / "weights", "w")
    (real / "model.safetensors").symlink_to("data/weights")
    (tmp_path / "alias").symlink_to(real)
    assert ["w"] == list(read_checkpoint(tmp_path / "alias").tensors)
    assert tmp_path / "alias" / "model.safetensors" == resolve_in_folder(
        tmp_path / "alias", "model.safetensors", "its folder"
    )


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files together may have only so many tensors, whose descriptions take memory before any limit is known."""
    save(tmp_path / "a.safetensors", "a", "b")
    save(tmp_path / "b.safetensors", "c")
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "a.safetensors", "c": "b.safetensors"}}')
    monkeypatch.setattr(safetensors_reader, "MAX_TENSORS", 3)
    assert 3 == len(read_checkpoint(tmp_path).tensors)
    monkeypatch.setattr(safetensors_reader, "MAX_TENSORS", 2)
    with pytest.raises(UnsupportedError, match="has more than 2 tensors; expected at most that many"):
        read_checkpoint(tmp_path)

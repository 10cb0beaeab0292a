"""Verification finds any changed byte and says where it is."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import dovetail.engine.actions.verify as verifying
from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import VerificationError
from dovetail.engine.output.manifest import is_intact
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.output import SafetensorsFormat
from tests.engine.command import dovetail
from tests.engine.conftest import Family

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def out(family: Family, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Merge into shards, in chunks of 1,000 elements."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1000)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    merge(family.recipe_path, family.out, PlanOptions(SafetensorsFormat(20_000)))
    return family.out


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


def place_of(out: Path, name: str, element: int) -> tuple[Path, int]:
    """Find the file and the position of an element of a bfloat16 tensor."""
    path = out / json.loads((out / "model.safetensors.index.json").read_bytes())["weight_map"][name]
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return path, start + json.loads(raw[8:start])[name]["data_offsets"][0] + 2 * element


def test_a_whole_output(out: Path) -> None:
    """Every byte of every file but the manifest is counted, and files that came later are named."""
    (out / "notes.txt").write_text("mine")
    total = sum(
        path.stat().st_size for path in out.iterdir() if path.name not in ("dovetail_manifest.json", "notes.txt")
    )
    verdict = verify(out)
    assert ((), ("notes.txt",), total) == (verdict.damage, verdict.unlisted, verdict.checked_bytes)
    outcome = dovetail("verify", out)
    assert (0, "") == (outcome.code, outcome.err)
    assert f"not in the manifest, not checked: notes.txt\n{out} is whole: " in outcome.out


def test_a_changed_bit_is_traced_to_its_elements(out: Path) -> None:
    """The tensor, its file and the range of elements are named, and the exit code is 5."""
    path, position = place_of(out, UP, 2345)
    flip(path, position)
    damage = f"tensor '{UP}' in {path.name} is damaged between elements 2000 and 3000"
    assert (damage,) == verify(out).damage
    outcome = dovetail("verify", out)
    assert 5 == outcome.code
    assert (
        f"error: {out} is damaged: {damage}; expected the bytes that were written; make the output again, or copy it "
        "again from where it is whole\n"
    ) == outcome.err


@pytest.mark.parametrize("position", [0, 1, 100, 8_000, -2_000, -1])
def test_any_changed_bit_of_a_shard_is_found(out: Path, position: int) -> None:
    """A changed bit is found in the header's length, in the header, in the data and at the very end."""
    flip(sorted(out.glob("*.safetensors"))[1], position)
    assert 1 == len(verify(out).damage)
    assert 5 == dovetail("verify", out, "--quiet").code


def _lose_a_shard(out: Path) -> str:
    path = sorted(out.glob("*.safetensors"))[0]
    path.unlink()
    return f"shard {path.name} is missing"


def _cut_a_shard(out: Path) -> str:
    path = sorted(out.glob("*.safetensors"))[0]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    return f"shard {path.name} has {size - 1} bytes instead of {size}"


def _change_a_side_file(out: Path) -> str:
    flip(out / "tokenizer.json", 0)
    return "file tokenizer.json has changed"


def _lose_a_side_file(out: Path) -> str:
    (out / "config.json").unlink()
    return "file config.json is missing"


def _change_the_index(out: Path) -> str:
    (out / "model.safetensors.index.json").write_bytes((out / "model.safetensors.index.json").read_bytes() + b" ")
    return "file model.safetensors.index.json has changed"


@pytest.mark.parametrize(
    "damage", [_lose_a_shard, _cut_a_shard, _change_a_side_file, _lose_a_side_file, _change_the_index]
)
def test_other_damage(out: Path, damage: Callable[[Path], str]) -> None:
    """Lost, cut and changed files are named."""
    assert (damage(out),) == verify(out).damage


def test_all_damage_is_told_as_json(out: Path) -> None:
    """With --json, every damage and the error are printed."""
    findings = [_lose_a_side_file(out), _change_a_side_file(out)]
    outcome = dovetail("verify", out, "--json")
    verdict, error = outcome.events[-2:]
    assert ("verdict", False, findings) == (verdict["event"], verdict["sound"], verdict["damage"])
    assert ("error", 5) == (error["event"], error["exit_code"])
    assert f"{out} is damaged: {findings[0]}, and 1 more; " in error["text"]


@pytest.mark.parametrize("position", [0, 30, 1000, -30, -1])
def test_a_changed_manifest_is_not_believed(out: Path, position: int) -> None:
    """A bit changed anywhere in the manifest, even in its checksum, is an error with exit code 5."""
    path = out / "dovetail_manifest.json"
    assert is_intact(path.read_bytes())
    flip(path, position)
    assert not is_intact(path.read_bytes())
    outcome = dovetail("verify", out)
    assert 5 == outcome.code
    assert outcome.err.startswith(f"error: {path} is damaged (")


def test_no_manifest(out: Path) -> None:
    """A folder without a manifest is an error."""
    (out / "dovetail_manifest.json").unlink()
    outcome = dovetail("verify", out)
    assert (
        5,
        f"error: there is no dovetail_manifest.json in {out}; expected a folder that dovetail has written; check "
        "the path\n",
    ) == (outcome.code, outcome.err)


def test_a_copy_is_as_good(out: Path, tmp_path: Path) -> None:
    """An output can be moved and copied, because nothing in it depends on its place."""
    shutil.copytree(out, tmp_path / "copy")
    assert () == verify(tmp_path / "copy").damage
    assert read_manifest(out) == read_manifest(str(tmp_path / "copy"))


def _instead(make: Callable[[Path], object], name: str = "config.json") -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / name).unlink(missing_ok=True)
        make(out / name)

    return change


def _elsewhere(path: Path) -> None:
    other = path.parent.parent / "elsewhere"
    other.write_bytes(b"x")
    path.symlink_to(other)


NO_FILES = {
    "pipe": (os.mkfifo, "is a named pipe"),
    "folder": (Path.mkdir, "is a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a link that leads out of its folder"),
    "link": (_elsewhere, "is a link that leads out of its folder"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "is a link that leads nowhere"),
    "link to itself": (lambda path: path.symlink_to(path.name), "is a link that leads nowhere"),
    "socket": (lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)), "is a socket"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file(out: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file is, is found out before it is opened: in the place of a side file, a shard, the manifest or none."""
    make, words = NO_FILES[case]
    monkeypatch.chdir(out)
    shard = sorted(out.glob("*.safetensors"))[0].name
    _instead(make, "stray")(out)
    _instead(make)(out)
    _instead(make, shard)(out)
    verdict = verify(out)
    assert (f"file config.json {words}", f"shard {shard} {words}") == verdict.damage
    assert (f"stray ({words.removeprefix('is ')})",) == verdict.unlisted
    _instead(make, "dovetail_manifest.json")(out)
    with pytest.raises(VerificationError, match=words):
        verify(out)


def test_pipes_in_the_place_of_what_a_command_would_continue(out: Path, family: Family) -> None:
    """Neither a journal nor the manifest of an output that is to be replaced is waited for."""
    os.mkfifo(out / "dovetail_journal")
    outcome = dovetail("merge", family.recipe_path, out)
    assert (5, True) == (outcome.code, "is not empty" in outcome.err)
    (out / "dovetail_manifest.json").unlink()
    os.mkfifo(out / "dovetail_manifest.json")
    assert 5 == dovetail("convert", family.math, out).code
    family.staging.mkdir()
    os.mkfifo(family.staging / "dovetail_journal")
    shutil.rmtree(out)
    outcome = dovetail("merge", family.recipe_path, out)
    assert (5, True) == (outcome.code, "dovetail_journal is a named pipe" in outcome.err)
    assert 0 == dovetail("merge", family.recipe_path, out, "--restart").code


def test_names_that_would_steer_a_terminal(out: Path) -> None:
    """Control characters in the names of files that do not belong are shown, not obeyed."""
    (out / "\x1b[2Jx").write_text("")
    outcome = dovetail("verify", out)
    assert "not checked: \\x1b[2Jx\n" in outcome.out


def test_a_copy_in_the_cache_of_a_hub(out: Path, tmp_path: Path) -> None:
    """Links from a snapshot to the blobs of the same cache are files of the output."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    shutil.copytree(out, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert ((), ()) == (verify(snapshot).damage, verify(snapshot).unlisted)


def test_a_manifest_of_very_many_values(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest that would take gigabytes as objects is refused before it is decoded, even with a right checksum."""
    count = sum(map((out / "dovetail_manifest.json").read_bytes().count, (b",", b"[", b"{")))
    monkeypatch.setattr(verifying, "MAX_MANIFEST_VALUES", count)
    assert () == verify(out).damage
    monkeypatch.setattr(verifying, "MAX_MANIFEST_VALUES", count - 1)
    with pytest.raises(VerificationError, match=f"it has {count} values, and at most {count - 1} are read"):
        verify(out)
    monkeypatch.setattr(verifying, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(VerificationError, match="it has more than 1000 bytes"):
        verify(out)

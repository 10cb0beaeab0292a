"""A third output format is one class and one row: merges, resumption, verification and words follow from these."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dovetail.engine import PlanOptions, RunOptions, convert, merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import verify
from dovetail.io.output import FORMATS
from tests.checkpoints import folder_bytes, read_output
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often, interrupt
from tests.npy_format import DOCUMENT, NpyFormat

OPTIONS = PlanOptions(NpyFormat("part"))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the format its row, and cut tensors into many chunks."""
    monkeypatch.setitem(FORMATS, NpyFormat.name, NpyFormat)
    commit_often(monkeypatch)


def loaded(out: Path) -> dict[str, bytes]:
    """Read the tensors of an output by NumPy, which knows nothing of Dovetail."""
    listed = json.loads((out / DOCUMENT).read_bytes())
    return {name: np.load(out / file).tobytes() for file, (name, *_) in listed.items()}


def test_a_merge_has_the_bytes_of_any_other(family: Family) -> None:
    """NumPy loads from the new format's files what the same merge stores in safetensors; the manifest is complete."""
    manifest = merge(family.recipe_path, family.out, OPTIONS)
    merge(family.recipe_path, family.home / "plain")
    expected = {name: array.tobytes() for name, array in read_output(family.home / "plain").items()}
    assert expected == loaded(family.out)
    assert "npy" == manifest["output_format"]
    assert {"dtype": None, "seed": 0, "nonfinite": "error", "npy": {"prefix": "part"}} == manifest["options"]
    assert [f"part{number}.npy" for number in range(len(expected))] == [each["name"] for each in manifest["shards"]]
    assert DOCUMENT in manifest["side_files"]


def test_an_interrupted_merge_continues(family: Family) -> None:
    """An interrupted merge continues, and gives the same bytes."""
    merge(family.recipe_path, family.home / "whole", OPTIONS)
    interrupt(family, options=OPTIONS)
    written = (family.staging / "part0.npy").stat().st_ino
    merge(family.recipe_path, family.out, OPTIONS, RunOptions(workers=2))
    assert folder_bytes(family.home / "whole") == folder_bytes(family.out)
    assert written == (family.out / "part0.npy").stat().st_ino


def test_parts_are_refused(family: Family) -> None:
    """A format that says nothing of parts refuses them in one line, before anything is made."""
    outcome = dovetail("merge", family.recipe_path, family.out, "--format", "npy", "--part", "1/2")
    assert (
        2,
        "error: npy output cannot be made in parts; expected a format that can; merge it by one process\n",
    ) == (outcome.code, outcome.err)
    assert not family.staging.exists()


def test_a_damaged_output_is_found(family: Family) -> None:
    """Verification covers every byte, and traces damage to files and elements."""
    merge(family.recipe_path, family.out, OPTIONS)
    verdict = verify(family.out)
    sizes = {path.name: path.stat().st_size for path in family.out.iterdir()}
    assert ((), ()) == (verdict.damage, verdict.unlisted)
    assert sum(sizes.values()) - sizes["dovetail_manifest.json"] == verdict.checked_bytes
    name, *_ = json.loads((family.out / DOCUMENT).read_bytes())["part3.npy"]
    path = family.out / "part3.npy"
    sound = path.read_bytes()
    for position, text in (
        (9, "shard part3.npy has a damaged header"),
        (len(sound) - 1, f"tensor {name!r} in part3.npy is damaged between elements"),
    ):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        (damage,) = verify(family.out).damage
        assert damage.startswith(text)
    path.unlink()
    assert ("shard part3.npy is missing",) == verify(family.out).damage


def test_an_output_is_recomputed(family: Family) -> None:
    """The plan of a finished output is made again from its manifest, and all of it gives the same bits."""
    merge(family.recipe_path, family.out, OPTIONS)
    assert sum(map(len, loaded(family.out).values())) == recompute(family.out, 1.0)


def test_a_conversion(family: Family) -> None:
    """A checkpoint is converted to the format value by value, and a second call finds that there is nothing to do."""
    convert(family.math, family.out, PlanOptions(NpyFormat(), dtype="float16"))
    before = folder_bytes(family.out)
    expected = {name: values.view(ml_dtypes.bfloat16) for name, values in read_output(family.math).items()}
    assert {name: values.astype(np.float16).tobytes() for name, values in expected.items()} == loaded(family.out)
    convert(family.math, family.out, PlanOptions(NpyFormat(), dtype="float16"))
    assert before == folder_bytes(family.out)


def test_its_document_is_never_taken_from_a_base_model(family: Family) -> None:
    """A base model's file with the name of the format's document is not copied into any output."""
    (family.base / DOCUMENT).write_text("{}")
    merge(family.recipe_path, family.out, OPTIONS)
    assert () == verify(family.out).damage
    merge(family.recipe_path, family.home / "plain")
    assert not (family.home / "plain" / DOCUMENT).exists()


def test_the_command_offers_it(family: Family) -> None:
    """The command accepts the format's name, and the plan and the summary use its nouns."""
    assert " in 9 NumPy files\n" in dovetail("plan", family.recipe_path, "--format", "npy").out
    outcome = dovetail("merge", family.recipe_path, family.out, "--format", "npy")
    assert 0 == outcome.code
    assert " in 9 NumPy files)" in outcome.out
    outcome = dovetail("merge", family.recipe_path, family.home / "other", "--format", "npy", "--codec", "zstd")
    assert (
        "error: --codec is for zarr output, and the output is npy; expected --format zarr; add it, or leave --codec\n"
    ) == outcome.err

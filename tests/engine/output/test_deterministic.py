"""The same recipe and inputs give the same manifest, model card and documents, byte for byte, whoever merges them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from dovetail.engine import RunOptions, convert, merge, read_manifest, recompute, verify
from dovetail.engine.output.manifest import _checksum_entry
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.engine.actions.test_remote_merge import remote_recipe
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often, interrupt
from tests.engine.outputs import AVERAGE
from tests.server import serve

RECORD = "dovetail_inputs.json"
SINGLE = [{**AVERAGE, "models": [{"model": "math"}, {"model": "code"}]}]
STAGED = [
    {"name": "mean", **AVERAGE, "models": [{"model": "math"}, {"model": "code"}]},
    {**AVERAGE, "models": [{"model": "mean"}, {"model": "base"}]},
]
SHARDS = PlanOptions(SafetensorsFormat(20_000))


def _portable(folder: Path) -> dict[str, bytes]:
    """Read every file of an output but the record of its inputs, which is this machine's."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _elsewhere(family: Family) -> Family:
    """Copy the models to another folder, with other times."""
    other = Family(family.home / "elsewhere" / "deeper")
    for name in ("base", "math", "code"):
        shutil.copytree(family.home / name, other.home / name)
        for path in (other.home / name).iterdir():
            os.utime(path, ns=(1, 10**18))
    return other


@pytest.mark.parametrize("format", [SHARDS, PlanOptions(ZarrFormat())], ids=["safetensors", "zarr"])
@pytest.mark.parametrize("documents", [SINGLE, STAGED], ids=["single", "staged"])
def test_the_same_inputs_elsewhere(family: Family, documents: list[dict[str, object]], format: PlanOptions) -> None:
    """Inputs in another folder, of other times, give the same files; so does a second run over the first."""
    found = []
    for home in (family, _elsewhere(family)):
        home.recipe_path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        merge(home.recipe_path, home.out, format)
        found.append(_portable(home.out))
        merge(home.recipe_path, home.out, format, RunOptions(overwrite=True, workers=1))
        found.append(_portable(home.out))
        assert str(home.home) not in found[-1]["dovetail_manifest.json"].decode()
    assert [found[0]] * 4 == found


def test_stages_that_are_kept_or_merged_already(family: Family) -> None:
    """Whether the results of stages are kept, and whether one was there already, leaves no trace in the output."""
    family.recipe_path.write_text(yaml.safe_dump_all(STAGED, sort_keys=False))
    merge(family.recipe_path, family.home / "not kept")
    merge(family.recipe_path, family.home / "kept", stages=family.home / "stages")
    merge(family.recipe_path, family.home / "kept again", stages=family.home / "stages")
    expected = _portable(family.home / "not kept")
    assert expected == _portable(family.home / "kept") == _portable(family.home / "kept again")


def test_resumed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that was interrupted leaves the files of one that was not, the record of inputs included."""
    commit_often(monkeypatch)
    merge(family.recipe_path, family.home / "whole", SHARDS)
    interrupt(family, options=SHARDS)
    merge(family.recipe_path, family.out, SHARDS, RunOptions(workers=3))
    assert _portable(family.home / "whole") == _portable(family.out)
    assert (family.home / "whole" / RECORD).read_bytes() == (family.out / RECORD).read_bytes()


def test_conversions(family: Family) -> None:
    """A conversion's files do not tell where its source was."""
    found = []
    for home in (family, _elsewhere(family)):
        convert(home.math, home.out, PlanOptions(dtype="float16"))
        found.append(_portable(home.out))
    assert found[0] == found[1]
    assert 0 < recompute(family.out, 1.0)


def test_over_the_network(family: Family) -> None:
    """What a manifest says of a file is the same whether it was read here or from a server."""
    merge(family.recipe_path, family.out)
    with serve(family.home) as site:
        merge(remote_recipe(family, site), family.home / "remote")
    here, there = (read_manifest(folder) for folder in (family.out, family.home / "remote"))
    assert [entry["files"] for entry in here["inputs"]] == [entry["files"] for entry in there["inputs"]]
    assert (here["totals"], here["tensors"]) == (there["totals"], there["tensors"])


def test_an_output_without_its_record(family: Family) -> None:
    """It is whole without; the same command cannot tell whether it is the same, and says why."""
    merge(family.recipe_path, family.out)
    (family.out / RECORD).unlink()
    verdict = verify(family.out)
    assert ((), ()) == (verdict.damage, verdict.unlisted)
    assert 0 < recompute(family.out, 1.0)
    outcome = dovetail("merge", family.recipe_path, family.out)
    text = f"holds another output: there is no {RECORD} of its own, which says where its inputs were and when "
    assert (5, True) == (outcome.code, text in outcome.err), outcome.err


@pytest.mark.parametrize("wrong", ["another output's", "damaged", "no JSON"])
def test_a_record_that_does_not_belong(family: Family, wrong: str) -> None:
    """A record of another output, or a damaged one, is not believed, and verification names it."""
    merge(family.recipe_path, family.out)
    path = family.out / RECORD
    if wrong == "another output's":
        merge({**AVERAGE, "models": [{"model": str(family.math)}]}, family.home / "other")
        shutil.copy(family.home / "other" / RECORD, path)
    else:
        path.write_bytes(path.read_bytes().replace(b'"mtime_ns": 1', b'"mtime_ns": 2') if wrong == "damaged" else b"x")
    assert (f"file {RECORD} is damaged, or belongs to another output",) == verify(family.out).damage
    assert f"there is no {RECORD} of its own" in dovetail("merge", family.recipe_path, family.out).err


def test_an_output_of_an_older_release(family: Family) -> None:
    """Those have no record, and the hash of the request in the manifest: they are known again by it."""
    made = merge(family.recipe_path, family.out)
    record = json.loads((family.out / RECORD).read_bytes())
    (family.out / RECORD).unlink()
    path = family.out / "dovetail_manifest.json"
    text = path.read_text().replace(made["plan_hash"], record["request_hash"])
    body = text.encode().rpartition(b',\n "self_checksum"')[0]
    path.write_bytes(body + _checksum_entry(hex_checksum(body)))
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (0, True) == (outcome.code, "nothing to do" in outcome.err)


@pytest.mark.parametrize("format", [SHARDS, PlanOptions(ZarrFormat(shards=20_000))], ids=["safetensors", "zarr"])
def test_permissions(family: Family, format: PlanOptions) -> None:
    """Every file of an output may be read and written as the user's mask says, and none can be executed."""
    before = os.umask(0o027)
    try:
        merge(family.recipe_path, family.out, format)
    finally:
        os.umask(before)
    modes = {path.relative_to(family.out): path.stat().st_mode & 0o777 for path in family.out.rglob("*")}
    assert {name: 0o750 if (family.out / name).is_dir() else 0o640 for name in modes} == modes

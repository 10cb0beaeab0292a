"""Merging models from a server on this machine that fails in every way gives the same bytes as local files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.locations import locate
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.recipe import ModelRef
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import ChangedFileError, MissingFileError, RemoteError, UnsupportedError
from dovetail.io.opening import read_checkpoint
from dovetail.io.remote import hub, retrying, side_files
from dovetail.io.remote.read_ahead import Pool
from tests.checkpoints import cabs_recipe, folder_bytes, llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.io.remote.test_http_transport import FAULTS, _silent, _slow
from tests.server import COMMIT, Handler, Request, Site, serve

TOLD_BY_NAME = {"README.md", "dovetail_inputs.json", "dovetail_manifest.json", "dovetail_recipe.yml"}
"""Files that name the inputs, and so cannot be the same for other places."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all pauses, cut tensors into many small tasks, and forget all side files and commits."""
    monkeypatch.setattr(retrying, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(grid, "CHUNK_STEP", 256)
    monkeypatch.setattr(grid, "TASK_BYTES", 1 << 12)
    monkeypatch.setattr(grid, "LEAST_TASK_BYTES", 1 << 12)
    monkeypatch.setattr(side_files, "_fetched", {})
    monkeypatch.setattr(hub, "_known", {})


@pytest.fixture
def site(family: Family) -> Iterator[Site]:
    """Serve the family."""
    with serve(family.home) as served:
        yield served


def remote_recipe(family: Family, site: Site, **changes: Any) -> Path:
    """Write the recipe with addresses in the place of folders."""
    return cabs_recipe(
        family.home / "remote.yml",
        f"{site.address}/base/",  # type: ignore[arg-type]
        [f"{site.address}/math", f"{site.address}/code"],  # type: ignore[list-item]
        **changes,
    )


def same_but_for_names(expected: Path, actual: Path) -> None:
    """Compare two outputs, but for what names the inputs."""
    first, second = folder_bytes(expected), folder_bytes(actual)
    assert set(first) == set(second)
    for name in set(first) - TOLD_BY_NAME:
        assert first[name] == second[name], name
    tensors = [json.loads(files["dovetail_manifest.json"])["tensors"] for files in (first, second)]
    assert tensors[0] == tensors[1]


def test_the_same_bytes_in_spite_of_failures(family: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third range fails at first, in all ways by turns; the output is that of local files, side files included,
    and what is fetched ahead never exceeds its limit."""
    merge(family.recipe_path, family.out)
    faults = [fault for fault in FAULTS.values() if fault is not _slow]
    pools: list[Pool] = []
    began = Pool.__init__

    def noted(self: Pool, limit_bytes: int) -> None:
        began(self, limit_bytes)
        pools.append(self)

    monkeypatch.setattr(Pool, "__init__", noted)

    seen: list[tuple[str, str]] = []

    def fault(handler: Handler, request: Request) -> bool:
        asked = request.path, request.headers.get("Range", "").rpartition("-")[2]  # which trying again does not change
        if "If-Range" not in request.headers or asked in seen:
            return False
        seen.append(asked)
        return len(seen) % 3 == 1 and faults[len(seen) // 3 % len(faults)](handler, request)

    site.fault = fault
    merge(remote_recipe(family, site), family.home / "remote", run=RunOptions(workers=3))
    same_but_for_names(family.out, family.home / "remote")
    (used,) = [pool for pool in pools if pool.limit_bytes]
    plan = make_plan(remote_recipe(family, site))
    assert plan.read_ahead_bytes == used.limit_bytes
    assert 0 < used.peak_bytes <= used.limit_bytes
    assert 0 == used.ahead_bytes
    manifest = read_manifest(family.home / "remote")
    assert f"{site.address}/base" == manifest["inputs"][0]["checkpoint"]
    assert not any("etag" in file for entry in manifest["inputs"] for file in entry["files"])
    record = json.loads((family.home / "remote" / "dovetail_inputs.json").read_bytes())
    assert all(file["etag"] for entry in record["inputs"] for file in entry["files"])


def test_recompute_and_mixed_places(family: Family, site: Site) -> None:
    """A merge of local and remote models can be computed again from the addresses in its manifest."""
    recipe = cabs_recipe(family.recipe_path, family.base, [f"{site.address}/math/model.safetensors", family.code])
    merge(recipe, family.home / "mixed")
    assert recompute(family.home / "mixed", 1.0) > 50_000
    assert 0 == dovetail("verify", family.home / "mixed").code


def test_a_change_stops_the_merge_and_restoring_continues_it(family: Family, site: Site) -> None:
    """A model that changes during the merge is an error; once it is restored, the same command gives the same bytes."""
    merge(family.recipe_path, family.out)
    recipe = remote_recipe(family, site)
    path = family.math / "model.safetensors"
    good, changed = path.read_bytes(), []

    def change(handler: Handler, request: Request) -> bool:
        if "If-Range" in request.headers and "/math/" in request.path:
            changed.append(1)
            if len(changed) == 8:
                path.write_bytes(good[:-1] + b"?")
        return False

    site.fault = change
    outcome = dovetail("merge", recipe, family.home / "remote", "--workers", "1", "--json")
    assert 3 == outcome.code
    assert "/math/model.safetensors changed since it was opened" in outcome.events[-1]["text"]
    assert "restore it and run the same command again to continue" in outcome.events[-1]["text"]
    outcome = dovetail("merge", recipe, family.home / "remote")
    assert 5 == outcome.code
    assert "/math/model.safetensors has changed since" in outcome.err
    path.write_bytes(good)
    before = len(site.requests)
    outcome = dovetail("merge", recipe, family.home / "remote", "--json")
    assert 0 == outcome.code
    assert any("Continuing an unfinished merge" in event.get("text", "") for event in outcome.events)
    assert len(site.requests) - before > 10
    same_but_for_names(family.out, family.home / "remote")


def test_a_server_that_dies_can_come_back(family: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server stays silent, the merge ends with an error that says how to continue, and then continues."""
    monkeypatch.setattr(retrying, "ATTEMPTS", 2)
    merge(family.recipe_path, family.out)
    recipe, seen = remote_recipe(family, site), []

    def die(handler: Handler, request: Request) -> bool:
        seen.append(request)
        return len(seen) > 30 and _silent(handler, request)

    site.fault = die
    outcome = dovetail("merge", recipe, family.home / "remote")
    assert 3 == outcome.code
    assert "cannot be read (the connection broke) after 2 attempts" in outcome.err
    assert "run the same command again to continue" in outcome.err
    site.fault = None
    assert 0 == dovetail("merge", recipe, family.home / "remote").code
    same_but_for_names(family.out, family.home / "remote")


def test_inspect_and_plan(family: Family, site: Site) -> None:
    """An address can be inspected, and planning reads headers only."""
    outcome = dovetail("inspect", f"{site.address}/code", "--json")
    told = json.loads(outcome.out)
    assert (0, 3, f"{site.address}/code") == (outcome.code, len(told["files"]), told["path"])
    assert 0 == dovetail("plan", remote_recipe(family, site)).code
    assert not [request for request in site.requests if "If-Range" in request.headers]
    outcome = dovetail("inspect", "https://me:secret@host/model")
    assert 3 == outcome.code
    assert "secret" not in outcome.out + outcome.err.replace("without secrets", "")
    outcome = dovetail("inspect", f"{site.address}/nothing")
    assert f"error: there is no checkpoint at {site.address}/nothing; expected a file" in outcome.err
    assert 3 == outcome.code


@pytest.fixture
def on_hub(family: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Put the family on a hub, with an empty cache."""
    for folder in (family.base, family.math, family.code):
        shutil.copytree(folder, family.home / "www" / "org" / folder.name)
    site.root = family.home / "www"
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(family.home / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(family.home / "cache" if (family.home / "cache").mkdir() else "/")
    return family


def hub_recipe(family: Family, *names: str) -> Path:
    """Write the recipe with other names of the models."""
    base, *models = names
    return cabs_recipe(family.home / "hub.yml", base, models)  # type: ignore[arg-type]


def test_names_on_a_hub(on_hub: Family, site: Site) -> None:
    """Models are downloaded once, only what is needed, and read from the cache from then on, without the network; the
    manifest names the commit, from which they are downloaded again."""
    family = on_hub
    (family.home / "www" / "org" / "math" / "pytorch_model.bin").write_bytes(b"not wanted")
    (family.home / "www" / "org" / "math" / "notes.txt").write_text("wanted")
    merge(family.recipe_path, family.out)
    recipe = hub_recipe(family, "org/base", "org/math@main", f"org/code@{COMMIT}")
    notices: list[str] = []
    merge(recipe, family.home / "remote", listen=lambda event: notices.append(getattr(event, "text", "")))
    same_but_for_names(family.out, family.home / "remote")
    assert "Downloading org/math: model.safetensors (1 of 1, 0 MB)." in notices
    assert not site.asked("pytorch_model.bin")
    assert site.asked("notes.txt")
    before = len(site.requests)
    merge(recipe, family.home / "again")
    assert before == len(site.requests)
    entry = read_manifest(family.home / "again")["inputs"][1]
    assert f"org/math@{COMMIT}" == entry["hub"]
    shutil.rmtree(family.home / "cache")
    assert recompute(family.home / "again", 0.1) > 0


def test_pytorch_files_on_a_hub(on_hub: Family, site: Site) -> None:
    """Where a hub has no safetensors, PyTorch's shards are downloaded, and only they; they cannot be streamed."""
    folder = on_hub.home / "www" / "org" / "old"
    folder.mkdir()
    for name in ("a.bin", "b.bin", "training_args.bin", "optimizer.pt", "model.h5", "config.json"):
        (folder / name).write_bytes(b"{}")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"v": "a.bin", "w": "b.bin"}}')
    location = locate(ModelRef(path="org/old"), None, lambda event: None)
    names = {"a.bin", "b.bin", "config.json", "pytorch_model.bin.index.json"}
    assert names == {path.name for path in Path(location.address).iterdir()}
    assert f"org/old@{COMMIT}" == location.hub
    with pytest.raises(UnsupportedError, match=f"write org/old@{COMMIT} instead, which downloads"):
        read_checkpoint("hf://org/old")


def test_planning_downloads_nothing(on_hub: Family, site: Site) -> None:
    """A plan of models that are not in the cache reads their headers, and says how much a merge would download."""
    recipe = hub_recipe(on_hub, "org/base", "org/math", "org/code")
    outcome = dovetail("plan", recipe, "--json")
    told = json.loads(outcome.out)
    assert "org/math is not in the hub's cache: the merge will download up to 74 KiB." in told["warnings"]
    assert [] == list((on_hub.home / "cache").iterdir())
    assert not [request for request in site.requests if "If-Range" in request.headers]


def test_streaming_from_a_hub(on_hub: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """``hf://`` reads a model, of the commit that its branch is now, without a download and with the token."""
    family = on_hub
    site.token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    merge(family.recipe_path, family.out)
    recipe = hub_recipe(family, "hf://org/base", "hf://org/math@main", f"hf://org/code@{COMMIT}")
    merge(recipe, family.home / "remote", PlanOptions())
    same_but_for_names(family.out, family.home / "remote")
    assert [] == list((family.home / "cache").iterdir())
    text = (family.home / "remote" / "dovetail_manifest.json").read_text()
    assert f"hf://org/base@{COMMIT}" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("org/nothing", "is neither a folder here nor a model that http://127.0.0.1"),
        ("org/base@v9", "model 'org/base' at revision 'v9' is not on the hub"),
        ("org/empty", "model 'org/empty' has no weights that can be read"),
    ],
)
def test_what_a_hub_has_not(on_hub: Family, name: str, text: str) -> None:
    """A missing model, revision or missing weights are named in the error, with exit code 3."""
    (on_hub.home / "www" / "org" / "empty").mkdir()
    outcome = dovetail("merge", hub_recipe(on_hub, name, "org/math"), on_hub.home / "remote")
    assert 3 == outcome.code
    assert text in outcome.err


def test_private_models(on_hub: Family, site: Site) -> None:
    """A model that the hub does not show is an error that asks for the token."""
    site.token = "secret"
    with pytest.raises(MissingFileError, match="set HF_TOKEN if the model is private"):
        locate(ModelRef(path="org/base"), None, lambda event: None)


def test_no_network(on_hub: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network, or if it must not be used, a model that is not in the cache is an error that says so."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for download in (None, lambda event: None):
        with pytest.raises(MissingFileError, match="not in the hub's cache, and HF_HUB_OFFLINE forbids asking the hub"):
            locate(ModelRef(path="org/base"), None, download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"model 'org/base' of http://127\.0\.0\.1:9 cannot be read "):
        locate(ModelRef(path="org/base"), None, lambda event: None)


def test_local_folders_come_first(on_hub: Family, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder with the model's name is read, and the hub is not asked."""
    monkeypatch.chdir(site.root)
    assert "org/base" == locate(ModelRef(path="org/base")).address
    location = locate(ModelRef(path="org/base", revision="v1"))
    assert ("org/base", "org/base is a local path: its revision 'v1' is ignored.") == (location.address, location.note)
    assert [] == site.requests


def test_files_that_were_put_back_are_the_same(family: Family, site: Site) -> None:
    """Another version of the same size is a change, even between two commands; the restored file is not."""
    recipe = remote_recipe(family, site)
    plan = make_plan(recipe)
    write_checkpoint(family.math, llama_tensors(9))
    assert plan.hash != make_plan(recipe).hash
    with pytest.raises(ChangedFileError):
        plan.checkpoints[1].tensors["lm_head.weight"].source.read(0, 10)

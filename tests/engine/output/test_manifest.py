"""The manifest: complete, and true when every figure is computed again by other means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
import yaml
from numpy.typing import NDArray

from dovetail.engine.actions.merge import merge
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import MATHS_VERSION, PlanOptions
from dovetail.io.output import SafetensorsFormat
from tests import naive
from tests.checkpoints import cabs_recipe, read_output
from tests.engine.awkward import base_tensors, tuned_tensors, write_family
from tests.engine.command import dovetail
from tests.engine.conftest import Family


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Merge three awkward models in small chunks and shards; give the folder and the manifest."""
    home = tmp_path_factory.mktemp("merged")
    base = base_tensors() | {"position_ids": np.arange(300)}
    models = [tuned_tensors(base_tensors(), seed) | {"position_ids": np.arange(300) + (seed == 1)} for seed in range(3)]
    folder, folders = write_family(home, base, models)
    recipe = cabs_recipe(
        home / "r.yml", folder, folders, parameters={"n": 7, "m": 16, "weight": 0.8, "overlap": "minimize"}
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grid, "CHUNK_STEP", 100)
        patched.setattr(grid, "TASK_BYTES", 1)
        merge(recipe, home / "out", PlanOptions(SafetensorsFormat(2000)))
    yield home / "out", json.loads((home / "out" / "dovetail_manifest.json").read_bytes())
    shutil.rmtree(home)


def test_the_manifest_names_every_file(merged: tuple[Path, dict[str, Any]]) -> None:
    """Every file but the manifest and the record of its inputs is listed with its true size and checksum."""
    out, manifest = merged
    shards = {shard["name"]: shard for shard in manifest["shards"]}
    listed = {*shards, *manifest["side_files"], "dovetail_manifest.json", "dovetail_inputs.json"}
    assert listed == {path.name for path in out.iterdir()}
    for name, entry in manifest["side_files"].items():
        data = (out / name).read_bytes()
        assert {"size_bytes": len(data), "checksum": f"{xxhash.xxh3_64(data).intdigest():016x}"} == entry
    for name, shard in shards.items():
        raw = (out / name).read_bytes()
        header = raw[: 8 + int.from_bytes(raw[:8], "little")]
        assert {
            "name": name,
            "size_bytes": len(raw),
            "header_bytes": len(header),
            "header_checksum": f"{xxhash.xxh3_64(header).intdigest():016x}",
        } == shard


def test_the_manifests_checksums_are_those_of_the_files(merged: tuple[Path, dict[str, Any]]) -> None:
    """Each tensor's checksums, taken from the bytes of its file chunk by chunk, match."""
    out, manifest = merged
    seen = set()
    for file in sorted(out.glob("*.safetensors")):
        raw = file.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        del header["__metadata__"]
        for name, entry in header.items():
            begin, end = (start + offset for offset in entry["data_offsets"])
            listed = manifest["tensors"][name]
            assert (file.name, entry["dtype"], entry["shape"]) == (listed["file"], listed["dtype"], listed["shape"])
            size = 100 * ((end - begin) // max(1, int(np.prod(entry["shape"]))) if end > begin else 1)
            chunks = [raw[at : min(at + size, end)] for at in range(begin, end, size)] or [b""]
            assert [f"{xxhash.xxh3_64(chunk).intdigest():016x}" for chunk in chunks] == listed["checksums"], name
            assert 100 == listed["chunk_elements"]
            seen.add(name)
    assert seen == set(manifest["tensors"])


def _norm(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.sum(values.astype(np.float64) ** 2)))


def test_the_manifests_statistics(merged: tuple[Path, dict[str, Any]]) -> None:
    """Kept, density, overlap and norms of every tensor, and their totals, are those of the oracle."""
    _, manifest = merged
    base = base_tensors()
    models = [tuned_tensors(base, seed) for seed in range(3)]
    kept_total, squares = np.zeros((3, 3), np.int64), np.zeros((3, 3))
    for name, tensor in base.items():
        oracle = naive.cabs(
            tensor,
            [model[name] for model in models],
            [7] * 3,
            [16] * 3,
            [0.8] * 3,
            ml_dtypes.bfloat16,
            overlap="minimize",
        )
        assert oracle.change is not None
        both = np.array([[int((a & b).sum()) for b in oracle.masks] for a in oracle.masks])
        either = np.array([[int((a | b).sum()) for b in oracle.masks] for a in oracle.masks])
        kept_norms = [_norm(np.where(mask, tau, 0)) for mask, tau in zip(oracle.masks, oracle.taus, strict=True)]
        found = manifest["tensors"][name]["statistics"]
        assert [0, 1, 2] == found["models"]
        assert np.diagonal(both).tolist() == found["kept"]
        assert (np.diagonal(both) / max(1, tensor.size)).tolist() == found["density"]
        assert (both / np.maximum(either, 1)).tolist() == found["overlap"]
        assert pytest.approx([_norm(tau) for tau in oracle.taus], rel=1e-6) == found["task_vector_norm"]
        assert pytest.approx(kept_norms, rel=1e-6) == found["kept_norm"]
        assert pytest.approx(_norm(oracle.change), rel=1e-6) == found["merged_norm"]
        assert (0, [0, 0, 0, 0]) == (found["overflowed"], found["nonfinite"])
        kept_total += both
        squares += [
            [_norm(tau) ** 2 for tau in oracle.taus],
            [norm**2 for norm in kept_norms],
            [_norm(oracle.change) ** 2] * 3,
        ]
    totals, elements = manifest["totals"], sum(tensor.size for tensor in base.values())
    alone = np.diagonal(kept_total)
    assert [elements] * 3 == totals["elements"]
    assert alone.tolist() == totals["kept"]
    assert (alone / elements).tolist() == totals["density"]
    assert (kept_total / (alone[:, None] + alone[None, :] - kept_total)).tolist() == totals["overlap"]
    assert pytest.approx(np.sqrt(squares[0]).tolist(), rel=1e-6) == totals["task_vector_norm"]
    assert pytest.approx(np.sqrt(squares[1]).tolist(), rel=1e-6) == totals["kept_norm"]
    assert pytest.approx(np.sqrt(squares[2][0]), rel=1e-6) == totals["merged_norm"]
    assert (0, 0) == (totals["overflowed"], totals["nonfinite"])


def test_the_manifest_says_what_was_copied(merged: tuple[Path, dict[str, Any]]) -> None:
    """A copied tensor is marked, and whether the models differ in it."""
    _, manifest = merged
    assert {"copied": True, "differing": True} == manifest["tensors"]["position_ids"]["statistics"]
    assert (1, ["position_ids"]) == (manifest["totals"]["copied"], manifest["totals"]["copied_differing"])


def test_the_manifest_says_where_it_comes_from(family: Family) -> None:
    """It holds recipe, versions, options and the fingerprints of all input files, but no times and no memory limit."""
    merge(family.recipe_path, family.out)
    manifest = json.loads((family.out / "dovetail_manifest.json").read_bytes())
    assert ("dovetail-manifest", 1, MATHS_VERSION, "xxh3-64") == tuple(
        manifest[key] for key in ("format", "format_version", "maths_version", "checksum")
    )
    assert yaml.safe_load(family.recipe_path.read_text()) == manifest["recipe"]
    assert {"dtype": None, "seed": 0, "nonfinite": "error", "shard_size_bytes": 5 * 10**9} == manifest["options"]
    assert [str(family.math), str(family.code)] == manifest["models"]
    assert [str(family.base), str(family.math), str(family.code)] == [item["checkpoint"] for item in manifest["inputs"]]
    for item in manifest["inputs"]:
        files = sorted(Path(item["checkpoint"]).glob("*.safetensors"))
        assert [file.name for file in files] == [entry["name"] for entry in item["files"]]
        for file, entry in zip(files, item["files"], strict=True):
            raw = file.read_bytes()
            header = raw[: 8 + int.from_bytes(raw[:8], "little")]
            assert (len(raw), xxhash.xxh3_128(header).hexdigest()) == (entry["size_bytes"], entry["header_hash"])


def test_values_that_overflow_are_counted(tmp_path: Path) -> None:
    """A value beyond the output dtype becomes infinite, is counted, and is a warning."""
    base = {"w": np.full(64, 6e4, np.float32)}
    model = {"w": base["w"] + np.where(np.arange(64) < 3, np.float32(2e4), np.float32(1))}
    folder, folders = write_family(tmp_path, base, [model])
    recipe = cabs_recipe(
        tmp_path / "r.yml", folder, folders, dtype="float16", parameters={"n": 64, "m": 64, "weight": 1}
    )
    outcome = dovetail("merge", recipe, tmp_path / "out")
    warning = "3 values in 1 tensor too large for float32 or for the output dtype, and infinite or NaN now: 'w' (3)"
    assert (0, f"warning: {warning}\n") == (outcome.code, outcome.err)
    assert 3 == int(np.isinf(read_output(tmp_path / "out")["w"]).sum())

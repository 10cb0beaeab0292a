"""Whole merges from and to Zarr: mixed formats, resuming, verifying, and options that are refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import verify
from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.planning import grid
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run import execution
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.prepare import RunOptions
from dovetail.io import open_checkpoint, read_checkpoint
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.checkpoints import cabs_recipe, llama_tensors, read_output, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.io.zarr_files import write_arrays, write_t5x

FORMATS = {
    "zstd": ZarrFormat(),
    "blosc": ZarrFormat("blosc"),
    "none": ZarrFormat("none"),
    "shards": ZarrFormat("zstd", 6_000),
}


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even small tensors into several chunks."""
    monkeypatch.setattr(grid, "TASK_BYTES", 8192)
    monkeypatch.setattr(grid, "CHUNK_STEP", 512)
    monkeypatch.setattr("dovetail.io.zarr.layout.INNER_BYTES", 1024)
    monkeypatch.setattr("dovetail.io.zarr.layout._STEP_ELEMENTS", 64)


def content(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def arrays(folder: Path) -> dict[str, bytes]:
    """Read every array by zarr-python alone."""
    group = zarr.open_group(folder, mode="r")
    return {name: np.asarray(array[...]).tobytes() for name, array in group.arrays()}


def values(tensors: dict[str, NDArray[Any]]) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_the_same_merge_in_zarr(family: Family, options: ZarrFormat) -> None:
    """The arrays are, by zarr-python, the tensors of the safetensors merge; the folder is whole and can be used."""
    merge(family.recipe_path, family.home / "plain")
    expected = values(read_output(family.home / "plain"))
    merge(family.recipe_path, family.out, PlanOptions(options))
    assert expected == arrays(family.out)
    names = {path.name for path in family.out.iterdir()}
    assert {"zarr.json", "config.json", "tokenizer.json", "README.md", "dovetail_manifest.json"} <= names
    assert any(len(list((family.out / name).iterdir())) > 2 for name in expected)
    verdict = verify(family.out)
    assert ((), ()) == (verdict.damage, verdict.unlisted)
    assert sum(map(len, expected.values())) == recompute(family.out, 1.0)
    again = cabs_recipe(family.home / "again.yml", family.out, [family.math, family.code])
    plain = cabs_recipe(family.home / "plain.yml", family.home / "plain", [family.math, family.code])
    merge(again, family.home / "again")
    merge(plain, family.home / "from_plain")
    assert read_output(family.home / "from_plain").keys() == read_output(family.home / "again").keys()
    assert values(read_output(family.home / "from_plain")) == values(read_output(family.home / "again"))


@pytest.mark.usefixtures("small_tasks")
def test_formats_may_be_mixed(family: Family) -> None:
    """A safetensors base, a Zarr v3 and a T5X-style bfloat16 v2 fine-tune merge as three safetensors models do."""
    merge(family.recipe_path, family.home / "plain")
    expected = values(read_output(family.home / "plain"))
    math = llama_tensors(1, llama_tensors(0))
    write_arrays(family.home / "math3", math, chunks=lambda shape: tuple(max(1, size // 3) for size in shape))
    write_t5x(family.home / "code2", llama_tensors(2, llama_tensors(0)))
    recipe = cabs_recipe(family.home / "mixed.yml", family.base, [family.home / "math3", family.home / "code2"])
    for options in (PlanOptions(), PlanOptions(ZarrFormat())):
        out = family.home / f"mixed-{options.format.name}"
        merge(recipe, out, options, RunOptions(workers=3))
        found = values(read_output(out)) if options == PlanOptions() else arrays(out)
        assert expected == found
        assert () == verify(out).damage


@pytest.mark.usefixtures("small_tasks")
def test_odd_shapes(tmp_path: Path) -> None:
    """Expert stacks whose rows do not divide, long vectors, scalars and empty tensors come out whole."""
    shapes: dict[str, tuple[int, ...]] = {
        "experts": (3, 97, 24), "deep": (2, 5, 331), "vector": (4_999,), "scalar": (), "empty": (0, 4),
    }  # fmt: skip
    random = np.random.default_rng(0)
    base = {name: random.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    base |= {"counts": random.integers(0, 9, (7, 301)), "flags": random.random((1_001,)) < 0.5}  # type: ignore[dict-item]
    tuned = {
        name: x if x.dtype.kind in "ib" else np.asarray(x.astype("f4") * 1.01, x.dtype) for name, x in base.items()
    }
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", tuned)
    recipe = cabs_recipe(tmp_path / "r.yml", tmp_path / "base", [tmp_path / "tuned"])
    merge(recipe, tmp_path / "plain")
    for name, options in FORMATS.items():
        merge(recipe, tmp_path / name, PlanOptions(options), RunOptions(workers=2))
        assert values(read_output(tmp_path / "plain")) == arrays(tmp_path / name)
        assert () == verify(tmp_path / name).damage


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("options", [ZarrFormat(), ZarrFormat("blosc", 6_000)], ids=["zstd", "blosc shards"])
def test_workers_and_memory_change_no_byte(family: Family, options: ZarrFormat) -> None:
    """Every file is the same for one worker and for many."""
    for workers in (1, 4):
        merge(family.recipe_path, family.home / str(workers), PlanOptions(options), RunOptions(workers=workers))
    assert content(family.home / "1") == content(family.home / "4")


@pytest.mark.usefixtures("small_tasks")
def test_an_interrupted_merge_continues(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was journalled is not computed again; half-written and stray objects are written over."""
    options = PlanOptions(ZarrFormat())
    merge(family.recipe_path, family.home / "whole", options)
    expected = content(family.home / "whole")
    monkeypatch.setattr(execution.Execution, "_report_progress", _Interrupting(6))
    with pytest.raises(Exception, match="interrupted"):
        merge(family.recipe_path, family.out, options, RunOptions(workers=1))
    monkeypatch.undo()
    journal = (family.staging / JOURNAL_NAME).read_bytes()
    assert journal.count(b"\n") >= 1
    objects = sorted(family.staging.glob("*/c*"))
    done = {path: path.stat().st_mtime_ns for path in objects}
    assert 0 < len(objects) < sum("/c" in name for name in expected)
    left = sorted(name for name in expected if "/c" in name and not (family.staging / name).exists())
    (family.staging / left[0]).write_bytes(b"half")
    monkeypatch.setattr(grid, "TASK_BYTES", 8192)
    monkeypatch.setattr(grid, "CHUNK_STEP", 512)
    monkeypatch.setattr("dovetail.io.zarr.layout._STEP_ELEMENTS", 64)
    merge(family.recipe_path, family.out, options)
    assert expected == content(family.out)
    kept = [
        path
        for path, time_ns in done.items()
        if (family.out / path.parent.name / path.name).stat().st_mtime_ns == time_ns
    ]
    assert kept


class _Interrupting:
    """A listener that interrupts the merge after a number of progress events."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small_tasks")
def test_processes_read_and_write_it(family: Family, processes: Executor) -> None:
    """Tasks in other processes open the arrays themselves, and give the same bytes."""
    math = llama_tensors(1, llama_tensors(0))
    write_arrays(family.home / "math3", math, chunks=lambda shape: tuple(max(1, size // 3) for size in shape))
    recipe = cabs_recipe(family.home / "r.yml", family.base, [family.home / "math3", family.code])
    options = PlanOptions(ZarrFormat("blosc"))
    merge(recipe, family.home / "threads", options)
    merge(recipe, family.out, options, RunOptions(executor=processes, workers=2))
    assert content(family.home / "threads") == content(family.out)


def test_a_chunk_beyond_the_memory_limit_is_refused(family: Family) -> None:
    """The projection includes the memory for decoding a chunk, so that a merge with too large chunks does not begin."""
    shape = (20_000, 10_000)
    write_arrays(family.home / "giant", {"w": np.zeros((1, 1), np.float32)})
    document = json.loads((family.home / "giant" / "w" / "zarr.json").read_bytes())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = list(shape)
    (family.home / "giant" / "w" / "zarr.json").write_text(json.dumps(document))
    shutil.copytree(family.home / "giant", family.home / "tuned")
    recipe = cabs_recipe(family.home / "r.yml", family.home / "giant", [family.home / "tuned"])
    with pytest.raises(MemoryLimitError, match=r"expected at least [0-9]{4} MiB"):
        merge(recipe, family.out, None, RunOptions(memory_bytes=2**30))
    assert not family.out.exists()
    assert not family.staging.exists()


def test_other_options_are_another_plan(family: Family) -> None:
    """The plan's hash tells formats, codecs and shards apart."""
    chosen = [SafetensorsFormat(), SafetensorsFormat(7_000), *FORMATS.values(), ZarrFormat("zstd", 7_000)]
    hashes = {make_plan(family.recipe_path, PlanOptions(each)).hash for each in chosen}
    assert len(chosen) == len(hashes)


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("options", [ZarrFormat(), ZarrFormat("none", 2_000)], ids=["zstd", "shards"])
def test_every_flipped_byte_is_found(family: Family, options: ZarrFormat) -> None:
    """Damage anywhere in any file of the output is found, and nothing else is blamed; all is read for every byte."""
    base = llama_tensors(0, layers=1)
    for folder, tensors in ((family.base, base), (family.math, llama_tensors(1, base, layers=1))):
        shutil.rmtree(folder)
        write_checkpoint(folder, {name: values[:20] for name, values in tensors.items()})
    merge(family.recipe(models=[{"model": str(family.math)}]), family.out, PlanOptions(options))
    assert len([*family.out.glob("lm_head.weight/c*")]) > 1
    random = np.random.default_rng(0)
    for path in sorted(family.out.rglob("*")):
        if not path.is_file() or path.name == "dovetail_manifest.json":
            continue
        sound = path.read_bytes()
        for place in {0, len(sound) - 1, int(random.integers(len(sound)))} if sound else ():
            damaged = bytearray(sound)
            damaged[place] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
            damage = verify(family.out).damage
            assert damage, f"{path} at {place}"
            assert all(path.name in line or path.parent.name in line for line in damage)
        path.write_bytes(sound)
    assert () == verify(family.out).damage


def test_missing_and_further_files_are_found(family: Family) -> None:
    """A missing object, which would be read as zeros, and a further one, which would never be read, are both found."""
    merge(family.recipe_path, family.out, PlanOptions(ZarrFormat()))
    home = family.out / "model.norm.weight"
    (home / "c.1").write_bytes((home / "c.0").read_bytes())
    assert ("file model.norm.weight/c.1 is not in the manifest",) == verify(family.out).damage
    (home / "c.1").unlink()
    (home / "c.0").rename(family.home / "away")
    assert "file model.norm.weight/c.0 is missing" in verify(family.out).damage
    (family.home / "away").rename(home / "c.0")
    shutil.copytree(home, family.out / "intruder")
    assert any("intruder" in line for line in verify(family.out).damage)
    shutil.rmtree(family.out / "intruder")
    shutil.rmtree(home)
    assert any("model.norm.weight" in line for line in verify(family.out).damage)


def test_group_and_metadata(family: Family) -> None:
    """The output is a group with consolidated metadata, that says what safetensors says."""
    merge(family.recipe_path, family.out, PlanOptions(ZarrFormat()))
    group = zarr.open_group(family.out, mode="r", use_consolidated=True)
    assert {"format": "pt"} == group.attrs["safetensors_metadata"]
    assert "BF16" == group["lm_head.weight"].attrs["safetensors_dtype"]
    assert {"format": "pt"} == read_checkpoint(family.out).metadata
    assert (97, 64) == open_checkpoint(family.out)["lm_head.weight"].shape  # type: ignore[union-attr]
    manifest = json.loads((family.out / "dovetail_manifest.json").read_bytes())
    assert "zarr" == manifest["output_format"]
    assert {"codec": "zstd", "shard_bytes": None} == manifest["options"]["zarr"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--format", "zarr", "--shard-size", "1GB"), "--shard-size is for safetensors files"),
        (("--codec", "blosc"), "--codec is for zarr output"),
        (("--zarr-shards", "1MB"), "--zarr-shards is for zarr output"),
        (("--format", "zarr", "--codec", "lzma"), "lzma"),
    ],
)
def test_what_cannot_be_asked(family: Family, options: tuple[str, ...], text: str) -> None:
    """An option that only the other format has is refused in one line, before anything is read."""
    for command in (("merge", family.recipe_path, family.out), ("plan", family.recipe_path)):
        outcome = dovetail(*command, *options)
        assert 2 == outcome.code
        assert text in outcome.err
    assert not family.out.exists()


def test_on_the_command_line(family: Family) -> None:
    """``merge --format zarr`` writes it, ``verify`` and ``inspect`` read it, ``plan`` says what it will be."""
    outcome = dovetail("plan", family.recipe_path, "--format", "zarr", "--json")
    assert "zarr" == json.loads(outcome.out)["format"]
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--format", "zarr", "--codec", "blosc").code
    assert 0 == dovetail("verify", family.out, "--recompute", "1").code
    outcome = dovetail("inspect", family.out, "--json")
    assert set(llama_tensors(0)) == set(json.loads(outcome.out)["tensors"])


def test_an_address_can_be_merged(family: Family) -> None:
    """A model at an address stands in a recipe like any other."""
    write_t5x(family.home / "code.zarr", llama_tensors(2, llama_tensors(0)))
    recipe = cabs_recipe(family.home / "r.yml", family.base, [family.math, f"file://{family.home}/code.zarr"])  # type: ignore[list-item]
    merge(recipe, family.out)
    merge(family.recipe_path, family.home / "plain")
    assert values(read_output(family.home / "plain")) == values(read_output(family.out))
    assert recompute(family.out, 1.0) > 0

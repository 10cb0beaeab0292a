"""Peak resident memory of merges in other processes, pages of memory-mapped files included."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import merge
from dovetail.engine.synthetic import SIZES, make_checkpoint
from tests.adapters import write_adapter
from tests.checkpoints import BF16, cabs_recipe, write_checkpoint
from tests.engine.command import COMMAND, dovetail
from tests.pace import HANGS_S
from tests.server import serve

MIB = 2**20

SHAPE = replace(SIZES["0.2GB"], layers=6)
"""Shape of models of 125 MB, of which three do not fit below the smallest limit."""

MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
sys.exit(done.returncode)
"""
"""Runs a command and prints its peak memory. A child's figure begins with its parent's, so the parent must be small."""


def merge_and_measure(recipe: Path, out: Path, limit_mib: int, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Merge in another process; give its peak resident memory in bytes and its events from "started" on."""
    # Kernels that are not in the cache yet would be compiled in a child, whose memory would be counted too.
    planned = dovetail("plan", recipe, "--json")
    assert 0 == planned.code, planned.err
    command = [*COMMAND, "merge", str(recipe), str(out), "--memory", f"{limit_mib}MiB", "--json", *options]
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *command], capture_output=True, text=True, check=False, timeout=HANGS_S
    )
    assert 0 == done.returncode, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    while seen[0]["event"] != "started":
        seen.pop(0)
    return int(done.stderr.splitlines()[-1]), seen


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base model and two fine-tunes of 125 MB each, Llama-shaped, in bfloat16."""
    home = tmp_path_factory.mktemp("models")
    for index, name in enumerate(("base", "math", "code")):
        make_checkpoint(home / name, SHAPE, index, max_shard_bytes=50 * 10**6, pool_elements=1 << 20)
    return home


@pytest.mark.parametrize(
    ("parameters", "limit_mib"),
    [
        ({}, 300),
        ({"overlap": "minimize", "consensus": "ties"}, 300),
        ({"balanced": False}, 300),
        ({}, 512),
    ],
    ids=["blocks in 300 MiB", "shared in 300 MiB", "whole tensors in 300 MiB", "blocks in 512 MiB"],
)
def test_peak_memory_stays_below_the_limit(
    models: Path, tmp_path: Path, parameters: dict[str, Any], limit_mib: int
) -> None:
    """375 MB of models are merged within the limit, below even the plan's projection, by the kernel's own count."""
    recipe = cabs_recipe(
        tmp_path / "recipe.yml",
        models / "base",
        [models / "math", models / "code"],
        parameters={"n": 64, "m": 256, "weight": 0.8, **parameters},
    )
    peak_bytes, (begun, *middle, done) = merge_and_measure(recipe, tmp_path / "out", limit_mib)
    assert begun["read_bytes"] >= 370 * 10**6
    assert limit_mib * MIB == begun["allowed_bytes"]
    assert begun["projected_bytes"] <= begun["allowed_bytes"]
    assert peak_bytes <= begun["projected_bytes"], f"{peak_bytes / MIB:.1f} MiB, {begun}"
    # What the merge reports of itself is the same, but for a few pages that each thread counts on its own.
    assert pytest.approx(peak_bytes, abs=8 * MIB) == done["peak_resident_bytes"]
    assert max(event["resident_bytes"] for event in middle if event["event"] == "progress") <= peak_bytes + 2 * MIB


def test_adapters_stay_below_the_limit(models: Path, tmp_path: Path) -> None:
    """Adapters of every linear module, a plain one and a wider one with magnitudes, are applied within 400 MiB, and
    within what the plan projects.
    """
    random = np.random.default_rng(0)
    for name, rank, dora in (("one", 64, False), ("two", 256, True)):
        tensors = {}
        for stored, shape in SHAPE.tensors().items():
            if len(shape) == 2 and "layers" in stored:
                module = stored.removesuffix(".weight")
                tensors[f"{module}.lora_A.weight"] = random.standard_normal((rank, shape[1]), np.float32)
                tensors[f"{module}.lora_B.weight"] = random.standard_normal((shape[0], rank), np.float32)
                if dora:
                    tensors[f"{module}.lora_magnitude_vector"] = np.ones(shape[0], np.float32)
        write_adapter(tmp_path / name, tensors, r=rank, use_dora=dora)
    both = [Path(f"{models}/base+{tmp_path}/{name}") for name in ("one", "two")]
    parameters = {"n": 64, "m": 256, "weight": 0.8}
    recipe = cabs_recipe(tmp_path / "recipe.yml", models / "base", both, parameters=parameters)
    peak_bytes, (begun, *_) = merge_and_measure(recipe, tmp_path / "out", 400)
    assert peak_bytes <= begun["projected_bytes"] <= 400 * MIB, f"{peak_bytes / MIB:.1f} MiB, {begun}"


def test_models_elsewhere_stay_below_the_limit(tmp_path: Path) -> None:
    """Two models on a server and one in PyTorch files are merged within the projection, to the same bytes."""
    import torch
    from safetensors.torch import load_file

    models, shape = tmp_path / "models", replace(SIZES["demo"], layers=6)
    for index, name in enumerate(("base", "math", "code")):
        make_checkpoint(models / name, shape, index, max_shard_bytes=30 * 10**6, pool_elements=1 << 20)
    weight_map: dict[str, str] = {}
    (tmp_path / "math").mkdir()
    for number, shard in enumerate(sorted((models / "math").glob("*.safetensors"))):
        torch.save(tensors := load_file(shard), tmp_path / "math" / f"{number}.bin")
        weight_map |= dict.fromkeys(tensors, f"{number}.bin")
    (tmp_path / "math" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    parameters = {"n": 64, "m": 256, "weight": 0.8}
    local = cabs_recipe(
        tmp_path / "local.yml", models / "base", [models / "math", models / "code"], parameters=parameters
    )
    merge(local, tmp_path / "expected")
    with serve(models) as site:
        recipe = cabs_recipe(
            tmp_path / "recipe.yml",
            f"{site.address}/base",  # type: ignore[arg-type]
            [tmp_path / "math", f"{site.address}/code"],  # type: ignore[list-item]
            parameters=parameters,
        )
        peak_bytes, (begun, *_) = merge_and_measure(recipe, tmp_path / "out", 512)
    assert peak_bytes <= begun["projected_bytes"] <= 512 * MIB, f"{peak_bytes / MIB:.1f} MiB, {begun}"
    for shard in (tmp_path / "expected").glob("*.safetensors"):
        assert filecmp.cmp(shard, tmp_path / "out" / shard.name, shallow=False)


def test_many_tensors_stay_below_the_limit(tmp_path: Path) -> None:
    """The records and events of 10,000 tensors, and writing their manifest, are within the projection."""
    random = np.random.default_rng(0)
    values = random.standard_normal(10_000 * 16).astype(np.float32)
    names = [f"model.layers.{index // 500}.mlp.experts.{index % 500}.w" for index in range(10_000)]
    for change, folder in ((0, "base"), (0.01, "math"), (0.02, "code")):
        tuned = (values + change * random.standard_normal(values.size)).astype(BF16)
        write_checkpoint(tmp_path / folder, dict(zip(names, tuned.reshape(-1, 4, 4), strict=True)))
    recipe = cabs_recipe(tmp_path / "recipe.yml", tmp_path / "base", [tmp_path / "math", tmp_path / "code"])
    peak_bytes, (begun, *_) = merge_and_measure(recipe, tmp_path / "out", 400)
    assert 10_000 == begun["tensors"]
    assert peak_bytes <= begun["projected_bytes"] <= 400 * MIB, f"{peak_bytes / MIB:.1f} MiB, {begun}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base model and two fine-tunes of the same dtype as `models`, of 200 KB each."""
    home = tmp_path_factory.mktemp("tiny")
    for index, name in enumerate(("base", "math", "code")):
        make_checkpoint(home / name, SIZES["tiny"], index)
    return home


def measure(words: Callable[[Path], tuple[str, ...]], models: Path, tiny: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run a command on models in another process, when the same on tiny ones has compiled its kernels in this one.

    Returns
    -------
    int
        The peak memory.
    list of dict
        The events.

    """
    tried = dovetail(*words(tiny))
    assert 0 == tried.code, tried.err
    command = [sys.executable, "-S", "-c", MEASURE, *COMMAND, *words(models), "--memory", "256MiB", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert 0 == done.returncode, done.stderr
    return int(done.stderr.splitlines()[-1]), [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("dtype", [(), ("--dtype", "float16")], ids=["as it is", "as float16"])
def test_conversions_stay_below_the_limit(models: Path, tiny: Path, tmp_path: Path, dtype: tuple[str, ...]) -> None:
    """125 MB are converted within the projection, which is within 256 MiB."""

    def words(home: Path) -> tuple[str, ...]:
        return "convert", str(home / "base"), str(tmp_path / home.name), *dtype

    peak_bytes, events = measure(words, models, tiny)
    (begun,) = [event for event in events if event["event"] == "started"]
    assert begun["read_bytes"] >= 120 * 10**6
    assert peak_bytes <= begun["projected_bytes"] <= 256 * MIB, f"{peak_bytes / MIB:.1f} MiB, {begun}"


def test_comparisons_stay_below_the_limit(models: Path, tiny: Path) -> None:
    """Two models of 125 MB are compared within the projection, which is within 256 MiB."""

    def words(home: Path) -> tuple[str, ...]:
        return "compare", str(home / "base"), str(home / "math"), "--max-abs", "1e9"

    peak_bytes, events = measure(words, models, tiny)
    assert events[-1]["read_bytes"] >= 240 * 10**6
    assert peak_bytes <= events[-1]["projected_bytes"] <= 256 * MIB, f"{peak_bytes / MIB:.1f} MiB, {events[-1]}"


def test_analyses_stay_below_the_limit(models: Path, tiny: Path) -> None:
    """Two fine-tunes of 125 MB are analysed beside their base within the projection, which is within 256 MiB."""

    def words(home: Path) -> tuple[str, ...]:
        return "analyze", "--base", *(str(home / name) for name in ("base", "math", "code"))

    peak_bytes, events = measure(words, models, tiny)
    assert events[-1]["read_bytes"] >= 370 * 10**6
    assert peak_bytes <= events[-1]["projected_bytes"] <= 256 * MIB, f"{peak_bytes / MIB:.1f} MiB, {events[-1]}"

"""What the commands print for people and for programs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.engine.cli.report.tables import BASE_MODELS
from dovetail.engine.methods.registry import METHODS
from tests.checkpoints import cabs_recipe, read_output
from tests.engine.awkward import base_tensors, tuned_tensors, write_family
from tests.engine.command import dovetail, dovetail_process
from tests.engine.conftest import Family
from tests.pace import HANGS_S


def test_help_waits_for_no_heavy_import() -> None:
    """Help imports neither numpy nor numba nor the modules for tables."""
    heavy = {"numpy", "numba", "llvmlite", "zarr", "torch", "ml_dtypes", "rich", "safetensors"}
    code = (
        "import sys\n"
        "from dovetail.engine.cli.main import main\n"
        "try:\n    main(['merge', '--help'])\n"
        f"except SystemExit:\n    print(sorted({heavy!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANGS_S)
    assert done.stdout.startswith("Usage: ")
    assert "[]" == done.stdout.splitlines()[-1]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_goes_to_stdout(option: str) -> None:
    """Help that the user asks for is printed to stdout, with exit code 0."""
    outcome = dovetail(option)
    assert (0, "") == (outcome.code, outcome.err)
    assert outcome.out.startswith("Usage: ")
    assert "bigger than your memory" in outcome.out


def test_every_option_of_merge_is_explained() -> None:
    """The help of merge names each option."""
    outcome = dovetail("merge", "--help")
    for option in (
        "--memory", "--workers", "--format", "--shard-size", "--dtype", "--seed", "--overwrite", "--restart",
        "--nonfinite", "--quiet", "--json", "--debug",
    ):  # fmt: skip
        assert f"  {option} " in outcome.out


def test_the_version() -> None:
    """The command prints the version of the distribution."""
    outcome = dovetail_process("--version")
    assert (0, f"dovetail {importlib.metadata.version('dovetail')}\n", "") == (outcome.code, outcome.out, outcome.err)


def test_methods_are_listed_with_their_parameters() -> None:
    """Each method has its summary, paper, base model and every parameter with default and help."""
    outcome = dovetail("methods")
    assert (0, "") == (outcome.code, outcome.err)
    for method in METHODS.values():
        assert f"{method.name}: {method.summary}\n" in outcome.out
        assert f"  paper       {method.paper}\n" in outcome.out
        assert f"  base model  {BASE_MODELS[method.base]}\n" in outcome.out
        for parameter in method.parameters:
            lines = {
                line
                for line in outcome.out.splitlines()
                if line.split()[:1] == [parameter.name] and parameter.help in line
            }
            assert lines
            assert all(("required" in line) == ("default" not in line.replace(parameter.help, "")) for line in lines)
    assert "forbid | minimize, default forbid" in outcome.out
    assert "bool, default true" in outcome.out


def test_methods_as_json() -> None:
    """With --json, methods prints the same table as JSON."""
    listed = json.loads(dovetail("methods", "--json").out)
    assert list(METHODS) == [method["name"] for method in listed]
    n = next(parameter for parameter in listed[0]["parameters"] if parameter["name"] == "n")
    assert {
        "name": "n",
        "kind": "int",
        "scope": "model",
        "required": True,
        "default": None,
        "choices": [],
        "synonyms": ["n_val", "default_n_val"],
        "help": "changes kept in every block of m; n/m is the density",
    } == n


def test_inspecting_a_checkpoint(family: Family) -> None:
    """Every tensor has a line with dtype, shape and size, and the last line has the totals."""
    outcome = dovetail("inspect", family.code)
    assert (0, "") == (outcome.code, outcome.err)
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["Tensor", "dtype", "shape", "size"] == lines[0]
    assert ["lm_head.weight", "bfloat16", "97", "x", "64", "12.1", "KiB"] in lines
    assert ["model.norm.weight", "bfloat16", "64", "128", "B"] in lines
    assert "9 tensors, 37,440 elements, 73.1 KiB in 3 files" == outcome.out.splitlines()[-1]


def test_inspecting_as_json(tmp_path: Path) -> None:
    """With --json, inspect gives dtypes, shapes and sizes in bytes, for scalars, empty tensors and single files too."""
    base = base_tensors()
    folder, _ = write_family(tmp_path, base, [])
    found = json.loads(dovetail("inspect", folder / "model.safetensors", "--json").out)
    assert {
        name: {"dtype": "F32", "shape": list(tensor.shape), "size_bytes": tensor.nbytes}
        for name, tensor in base.items()
    } == found["tensors"]
    assert sum(tensor.size for tensor in base.values()) == found["elements"]
    size = (folder / "model.safetensors").stat().st_size
    assert [{"name": "model.safetensors", "size_bytes": size}] == found["files"]


def test_a_plan(family: Family) -> None:
    """The plan says what would be read, written and held in memory, and makes no file."""
    outcome = dovetail("plan", family.recipe_path, "--memory", "4GiB", "--shard-size", "20000")
    assert (0, "") == (outcome.code, outcome.err)
    rows = dict(line.split(None, 1) for line in outcome.out.replace("Base model", "Base").splitlines())
    assert {"Method", "Base", "Models", "Output", "Read", "Write", "Memory", "Hash"} == set(rows)
    assert f"{family.math}, {family.code}" == rows["Models"].strip()
    assert "9 tensors, 37,440 elements, 9 bfloat16" == rows["Output"].strip()
    assert "219 KiB in 1 task, at most 1 pass over a tensor" == rows["Read"].strip()
    assert rows["Write"].strip().endswith(" in 5 shards")
    assert " of 4 GiB allowed: " in rows["Memory"]
    assert not family.out.exists()


def test_a_plan_reads_no_tensor_data(family: Family) -> None:
    """A checkpoint with right headers, but nothing except NaN as data, is planned like any other."""
    for path in family.base.glob("*.safetensors"):
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        path.write_bytes(raw[:start] + b"\xff" * (len(raw) - start))
    assert 0 == dovetail("plan", family.recipe_path).code
    assert 3 == dovetail("merge", family.recipe_path, family.out).code


def test_a_plan_as_json(family: Family) -> None:
    """The figures of the plan are those of the merge."""
    plan = json.loads(dovetail("plan", family.recipe_path, "--memory", "4GiB", "--json").out)
    tensor_bytes = 37_440 * 2
    assert ("cabs", 9, 1, 1) == tuple(plan[key] for key in ("method", "tensors", "tasks", "passes"))
    assert (3 * tensor_bytes, 4 * 2**30) == (plan["read_bytes"], plan["allowed_bytes"])
    assert plan["reserved_bytes"] < plan["projected_bytes"] <= plan["allowed_bytes"]
    events = dovetail("merge", family.recipe_path, family.out, "--memory", "4GiB", "--json").events
    begun, done = events[0], events[-1]
    assert plan["read_bytes"] == begun["read_bytes"] == done["read_bytes"]
    assert plan["write_bytes"] == begun["write_bytes"] == (family.out / "model.safetensors").stat().st_size
    assert plan["shards"] == [{"name": "model.safetensors", "size_bytes": plan["write_bytes"]}]


def test_a_plans_hash_is_that_of_what_is_asked_for(family: Family) -> None:
    """The hash is the same for other memory and workers, and differs for other recipes, options and inputs."""

    def hash_of(*options: str) -> str:
        # A limit that leaves room for whatever earlier tests have loaded into this process.
        outcome = dovetail("plan", family.recipe_path, "--json", "--memory", "64GiB", *options)
        assert (0, "") == (outcome.code, outcome.err)
        return str(json.loads(outcome.out)["hash"])

    first = hash_of()
    assert first == hash_of("--memory", "32GiB", "--workers", "1")
    others = [hash_of("--dtype", "float32"), hash_of("--seed", "1"), hash_of("--shard-size", "1MB")]
    family.recipe(parameters={"n": 4, "m": 16, "weight": 0.9})
    others.append(hash_of())
    family.recipe()
    assert first == hash_of()
    (family.math / "model.safetensors").write_bytes((family.math / "model.safetensors").read_bytes())
    others.append(hash_of())
    assert len({first, *others}) == 6


def test_a_merge_as_json_events(family: Family) -> None:
    """Every line is an object; the first is "started", the last "done", and progress counts all bytes."""
    outcome = dovetail("merge", family.recipe_path, family.out, "--json", "--shard-size", "20000")
    assert (0, "") == (outcome.code, outcome.err)
    first, *middle, last = outcome.events
    assert ("started", "done") == (first["event"], last["event"])
    assert {"progress", "committed", "shard"} == {event["event"] for event in middle}
    assert str(family.staging) == first["staging"]
    assert 37_440 * 2 == sum(event["bytes"] for event in middle if event["event"] == "committed")
    progress = [event for event in middle if event["event"] == "progress"]
    assert progress[-1]["done_bytes"] == progress[-1]["total_bytes"] == 37_440 * 8
    shards = {event["file"]: event for event in middle if event["event"] == "shard"}
    assert {path.name: path.stat().st_size for path in family.out.glob("*.safetensors")} == {
        name: event["bytes"] for name, event in shards.items()
    }
    manifest = json.loads((family.out / "dovetail_manifest.json").read_bytes())
    assert {name: entry["checksums"] for name, entry in manifest["tensors"].items()} == {
        name: checksums for event in shards.values() for name, checksums in event["checksums"].items()
    }
    assert manifest["totals"] == last["summary"]
    assert str(family.out) == last["output"]


def test_warnings_are_events_too(tmp_path: Path) -> None:
    """With --json a warning is a line of its own on stdout, and stderr is empty."""
    base = base_tensors("float64")
    folder, folders = write_family(tmp_path, base, [tuned_tensors(base, 1, "float64")])
    outcome = dovetail("merge", cabs_recipe(tmp_path / "r.yml", folder, folders), tmp_path / "out", "--json")
    assert {
        "event": "notice",
        "level": "warning",
        "text": "8 float64 tensors are merged in float32.",
    } == outcome.events[0]
    assert (0, "") == (outcome.code, outcome.err)


def test_a_merge_without_a_terminal(family: Family) -> None:
    """Plain lines show the start and the result: output, time, memory, and each model's density and overlap."""
    outcome = dovetail("merge", family.recipe_path, family.out, "--memory", "4GiB", "--workers", "1")
    assert (0, "") == (outcome.code, outcome.err)
    lines = [line.rstrip() for line in outcome.out.splitlines()]
    assert lines[0].startswith("cabs: 9 tensors, reading 219 KiB, writing 74 KiB, 1 worker, at most ")
    assert lines[0].endswith(" of 4 GiB allowed")
    assert f"Output  {family.out} (73.1 KiB in 1 shard)" == lines[1]
    assert lines[3].startswith("Memory  peak ")
    manifest = json.loads((family.out / "dovetail_manifest.json").read_bytes())
    for name, density in zip(("math", "code"), manifest["totals"]["density"], strict=True):
        assert any(line.split()[:2] == [name, f"{density:.4%}"] for line in lines)
    assert "Overlap of math and code: 0.0000%" in lines
    assert f"Statistics and checksums of every tensor: {family.out}/dovetail_manifest.json" == lines[-2]
    assert f"As a web page: dovetail report {family.out}" == lines[-1]
    assert "\x1b" not in outcome.out


def test_quiet_prints_nothing(family: Family) -> None:
    """With --quiet a merge without warnings prints nothing."""
    outcome = dovetail("merge", family.recipe_path, family.out, "--quiet")
    assert (0, "", "") == (outcome.code, outcome.out, outcome.err)
    assert 9 == len(read_output(family.out))


def test_quiet_keeps_warnings_and_errors(tmp_path: Path) -> None:
    """With --quiet, warnings and errors are still printed to stderr."""
    base = base_tensors("float64")
    folder, folders = write_family(tmp_path, base, [tuned_tensors(base, 1, "float64")])
    recipe = cabs_recipe(tmp_path / "r.yml", folder, folders)
    outcome = dovetail("merge", recipe, tmp_path / "out", "--quiet")
    assert (0, "", "warning: 8 float64 tensors are merged in float32.\n") == (outcome.code, outcome.out, outcome.err)
    outcome = dovetail("merge", recipe, tmp_path / "out", "--quiet", "--seed", "1")
    assert (5, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith("error: output folder ")


def test_paths_relative_to_the_recipe(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are looked for in the current folder, then beside the recipe."""
    cabs_recipe(family.recipe_path, Path("base"), [Path("math"), Path("code")])
    elsewhere = family.home / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert 0 == dovetail("merge", family.recipe_path, "out").code
    assert 9 == len(read_output(elsewhere / "out"))


def test_names_that_the_terminal_cannot_show(family: Family) -> None:
    """Letters that the terminal's encoding lacks are escaped, and the command does not fail."""
    family.math.rename(family.home / "mäth")
    cabs_recipe(family.recipe_path, family.base, [family.home / "mäth"])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    outcome = dovetail_process("plan", family.recipe_path, environment=environment)
    assert (0, "") == (outcome.code, outcome.err)
    assert f"{family.home}/m\\xe4th" in outcome.out
    (family.home / "mäth" / "model.safetensors").unlink()
    outcome = dovetail_process("plan", family.recipe_path, environment=environment)
    assert 3 == outcome.code
    assert outcome.err.startswith(f"error: {family.home}/m\\xe4th has no .safetensors file; ")

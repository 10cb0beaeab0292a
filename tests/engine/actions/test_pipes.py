"""No command waits for the other end of a named pipe that stands in the place of a file or a folder."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.errors import ChangedFileError
from dovetail.io.opening import read_checkpoint
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import cabs_recipe, llama_tensors
from tests.engine.command import Outcome, dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often, interrupt
from tests.pace import HANGS_S


@pytest.fixture(autouse=True)
def _no_hanging() -> Iterator[None]:
    """End a test that waits for ever."""

    def give_up(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANGS_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _is_sound(outcome: Outcome) -> bool:
    """Whether a command has ended as it should, with an error of one line if with any."""
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    return outcome.code in (0, 2, 3, 5, 6) and len(errors) == (outcome.code != 0) and "defect" not in outcome.err


INPUTS = (
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json",
    "generation_config.json", "model.safetensors", "zarr.json", "pytorch_model.bin", "adapter_config.json",
)  # fmt: skip


@pytest.mark.parametrize("command", ["merge", "plan", "analyze", "inspect", "compare", "convert", "extract-lora"])
def test_inputs(family: Family, command: str) -> None:
    """Pipes among the files of a model are refused, or left alone where nothing is read of such files."""
    whole = shutil.copytree(family.base, family.home / "whole")
    arguments: dict[str, list[Any]] = {
        "merge": [family.recipe_path, family.out],
        "plan": [family.recipe_path],
        "analyze": [family.recipe_path],
        "inspect": [family.base],
        "compare": [family.base, family.math],
        "convert": [family.base, family.out],
        "extract-lora": [family.math, family.base, family.out],
    }
    for name in INPUTS:
        (family.base / name).unlink(missing_ok=True)
        os.mkfifo(family.base / name)
        outcome = dovetail(command, *arguments[command], *(["--overwrite"] if family.out.exists() else []))
        assert _is_sound(outcome), (name, outcome)
        shutil.rmtree(family.base)
        shutil.copytree(whole, family.base)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_adapters(family: Family, name: str) -> None:
    """So are pipes in the folder of an adapter."""
    base = llama_tensors(0)
    adapter = write_adapter(family.home / "lora", lora_tensors(1, base, ["model.layers.0.self_attn.q_proj"]))
    recipe = cabs_recipe(family.home / "lora.yml", family.base, [f"{family.math}+{adapter}"])  # type: ignore[list-item]
    (adapter / name).unlink(missing_ok=True)
    os.mkfifo(adapter / name)
    assert _is_sound(dovetail("plan", recipe))


@pytest.mark.parametrize("form", [SafetensorsFormat(20_000), ZarrFormat()], ids=["safetensors", "zarr"])
def test_unfinished_outputs(family: Family, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that continues meets a pipe in the place of any file that it has made or is about to make."""
    commit_often(monkeypatch)
    interrupt(family, 2, PlanOptions(form))
    whole = shutil.copytree(family.staging, family.home / "kept")
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    named = {(path.name, path.parent.name[:1]): path for path in files}  # one of each kind
    asked = ["--shard-size", "20000"] if form.name == "safetensors" else ["--format", "zarr"]
    for path in [*named.values(), Path("config.json"), Path("dovetail_manifest.json"), Path("README.md")]:
        (family.staging / path).unlink(missing_ok=True)
        os.mkfifo(family.staging / path)
        outcome = dovetail("merge", family.recipe_path, family.out, *asked)
        assert _is_sound(outcome), (path, outcome)
        for folder in (family.staging, family.out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, family.staging)


@pytest.mark.parametrize("option", ["--quiet", "--restart", "--overwrite"])
@pytest.mark.parametrize("name", [".out.dovetail-old", ".out.dovetail-partial", "out"])
def test_folders(family: Family, name: str, option: str) -> None:
    """A pipe in the place of the output, or of a working folder beside it, is named and left where it is."""
    os.mkfifo(family.home / name)
    outcome = dovetail("merge", family.recipe_path, family.out, option)
    assert (5, True) == (outcome.code, str(family.home / name) in outcome.err)
    assert (family.home / name).is_fifo()


def test_a_pipe_in_the_place_of_stages(family: Family) -> None:
    """The folder of a recipe's stages is looked at before it is removed."""
    text = family.recipe_path.read_text()
    family.recipe_path.write_text(f"name: first\n{text}---\n" + text.replace(str(family.math), "first"))
    os.mkfifo(family.home / ".out.dovetail-stages")
    for option in ("--quiet", "--restart"):
        assert 5 == dovetail("merge", family.recipe_path, family.out, option).code


def test_a_file_that_becomes_a_pipe(family: Family) -> None:
    """A file that is replaced after its header was read has changed."""
    info = read_checkpoint(family.math).tensors["lm_head.weight"]
    (family.math / "model.safetensors").unlink()
    os.mkfifo(family.math / "model.safetensors")
    with pytest.raises(ChangedFileError, match="changed since the checkpoint was opened"):
        info.source.read(0, 1)


@pytest.mark.parametrize("command", ["merge", "report", "analyze", "analysis"])
def test_files_that_are_named(family: Family, command: str) -> None:
    """A pipe in the place of a page or of an analysis is refused before anything is done, and stays."""
    pipe = family.home / "pipe"
    os.mkfifo(pipe)
    arguments: dict[str, list[Any]] = {
        "merge": ["merge", family.recipe_path, family.out, "--report", pipe],
        "report": ["report", family.home / "merged", "--html", pipe, "--overwrite"],
        "analyze": ["analyze", family.recipe_path, "--html", pipe],
        "analysis": ["analyze", family.recipe_path, "--save", pipe, "--overwrite"],
    }
    assert 0 == dovetail("merge", family.recipe_path, family.home / "merged").code
    outcome = dovetail(*arguments[command])
    option = {"merge": "--report", "analysis": "--save"}.get(command, "--html")
    assert 5 == outcome.code
    told = f"error: {pipe} is no regular file; expected the name of a file to write; name a file by {option}\n"
    assert told == outcome.err
    assert pipe.is_fifo()
    assert not family.out.exists()

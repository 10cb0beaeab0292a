"""An output that is there and is not what is asked for: other, damaged, or of other inputs; what differs is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dovetail.engine import RunOptions, make_moe, merge, read_manifest
from dovetail.engine.planning.plan import PlanOptions
from tests.engine.command import dovetail, snapshot
from tests.engine.conftest import Family
from tests.engine.outputs import AVERAGE, contents, extracted, mixed, staged, unreadable
from tests.server import serve

EXPECTED = (
    "; expected a new or empty folder, or an output of the same recipe, options and inputs; choose another folder, "
    "or pass --overwrite to make the output again\n"
)


@dataclass(frozen=True)
class Other:
    """Another command for the same output."""

    id: str
    """What is other about it."""
    change: Callable[[Family], object]
    """Makes it so."""
    text: str
    """What the error says; ``{home}`` is the family's folder."""
    options: tuple[str, ...] = ()
    """Options of the command."""


def _written_to(family: Family) -> None:
    path = family.code / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes())


OTHERS = (
    Other(
        "a parameter",
        lambda family: family.recipe(parameters={"n": 5, "m": 16, "weight": 0.8}),
        "parameters.n of the recipe was 4 and is 5",
    ),
    Other(
        "a model",
        lambda family: family.recipe(models=[{"model": str(family.math)}]),
        "models of the recipe was ",
    ),
    Other("a dtype", lambda _: None, "dtype of the options was not given and is 'float16'", ("--dtype", "float16")),
    Other("a seed", lambda _: None, "seed of the options was 0 and is 7", ("--seed", "7")),
    Other("a format", lambda _: None, "zarr of the options was not given and is {{'codec'", ("--format", "zarr")),
    Other(
        "an input of another size",
        lambda family: (family.math / "model.safetensors").write_bytes(
            (family.base / "model-00001-of-00002.safetensors").read_bytes()
        ),
        "the input {home}/math/model.safetensors has changed since",
    ),
    Other(
        "an input that was written to",
        _written_to,
        "the input {home}/code/model-00002-of-00003.safetensors was written to after it",
    ),
    Other(
        "an input with another time",
        lambda family: os.utime(family.math / "model.safetensors", ns=(1, 1)),
        "the input {home}/math/model.safetensors had another time of modification",
    ),
)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other.id)
def test_another_output_is_told_what_differs(family: Family, other: Other) -> None:
    """Another recipe, option or input for the same folder is an error that names it, and the output stays."""
    family.recipe(parameters={"n": 4, "m": 16, "weight": 0.8})
    merge(family.recipe_path, family.out)
    before = snapshot(family.out)
    other.change(family)
    outcome = dovetail("merge", family.recipe_path, family.out, "--allow-partial", *other.options)
    text = f"error: output folder {family.out} is not empty and holds another output: "
    assert (5, text) == (outcome.code, outcome.err[: len(text)])
    assert outcome.err.startswith(text + other.text.format(home=family.home)), outcome.err
    assert outcome.err.endswith(EXPECTED)
    assert before == snapshot(family.out)


def test_what_differs_in_a_stage(family: Family) -> None:
    """An error about stages names the stage whose recipe differs, or the input, though the results are gone."""
    make = staged(family)
    make()
    text = family.recipe_path.read_text()
    family.recipe_path.write_text(text.replace("weight: 1", "weight: 2", 1))
    assert "weight of the recipe of stage mean was 1" in dovetail("merge", family.recipe_path, family.out).err
    family.recipe_path.write_text(text)
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    _written_to(family)
    error = dovetail("merge", family.recipe_path, family.out).err
    assert f"the input {family.code}/model-00002-of-00003.safetensors was written to after it" in error


def test_other_adapters_and_mixtures(family: Family) -> None:
    """Errors about an adapter or a mixture name the option that differs."""
    make = extracted(family)
    make()
    asked = ("extract-lora", family.math, family.base, family.out, "--dtype", "float32")
    assert "rank of the options was 2 and is 3" in dovetail(*asked, "--rank", "3").err
    make = mixed(family)
    make(RunOptions(overwrite=True))
    with pytest.raises(OSError, match="seed of the options was 0 and is 1"):
        make_moe(read_manifest(family.out)["moe"]["recipe"], family.out, PlanOptions(seed=1))


@dataclass(frozen=True)
class Damage:
    """Damage to a finished output."""

    id: str
    """What it is."""
    inflict: Callable[[Path], object]
    """Damages the folder."""
    text: str
    """What the error says of it."""
    zarr: bool = False
    """Whether the output is Zarr."""


SHARD = "model.safetensors"
ARRAY = "model.norm.weight"
DAMAGES = (
    Damage("a shard that is gone", lambda out: (out / SHARD).unlink(), f"shard {SHARD} is missing"),
    Damage("a shard cut short", lambda out: os.truncate(out / SHARD, 4000), f"shard {SHARD} has 4000 bytes instead of"),
    Damage("a changed side file", lambda out: (out / "config.json").write_text("{}"), "file config.json has changed"),
    Damage("a side file that is gone", lambda out: (out / "README.md").unlink(), "file README.md is missing"),
    Damage("a chunk that is gone", lambda out: (out / ARRAY / "c.0").unlink(), f"file {ARRAY}/c.0 is m", zarr=True),
    Damage("an empty chunk", lambda out: os.truncate(out / ARRAY / "c.0", 0), f"file {ARRAY}/c.0 is empty", zarr=True),
    Damage(
        "an array's document", lambda out: (out / ARRAY / "zarr.json").unlink(), f"file {ARRAY}/zarr.json", zarr=True
    ),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_a_damaged_output_is_not_finished(family: Family, damage: Damage) -> None:
    """The error says what differs and what to do, and --overwrite makes the output again."""
    options = ("--format", "zarr") if damage.zarr else ()
    command = ("merge", family.recipe_path, family.out, *options)
    assert 0 == dovetail(*command).code
    before = contents(family.out)
    damage.inflict(family.out)
    outcome = dovetail(*command)
    text = f"error: output folder {family.out} holds this merge, but {damage.text}"
    assert (5, text) == (outcome.code, outcome.err[: len(text)])
    assert outcome.err.endswith(
        "; expected the files that its manifest lists; restore them, or pass --overwrite to make the output again\n"
    )
    assert 0 == dovetail(*command, "--overwrite").code
    assert before == contents(family.out)


def test_a_damaged_manifest(family: Family) -> None:
    """Where the manifest itself is damaged, the error says so."""
    merge(family.recipe_path, family.out)
    path = family.out / "dovetail_manifest.json"
    path.write_bytes(path.read_bytes().replace(b"cabs", b"ties", 1))
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (5, True) == (outcome.code, f"is not empty: {path} is damaged (ValueError: the checksum" in outcome.err)


def test_side_files_of_the_base_model_count(family: Family) -> None:
    """The output is not this merge any more when the base model's tokenizer or configuration is another."""
    (family.base / "tokenizer_config.json").write_text("{}")
    merge(family.recipe_path, family.out)
    for name in ("tokenizer_config.json", "config.json"):
        path = family.base / name
        text = path.read_text()
        path.write_text(json.dumps({**json.loads(text), "bos_token_id": 5}))
        outcome = dovetail("merge", family.recipe_path, family.out)
        assert (5, True) == (
            outcome.code,
            f"holds this merge, but its {name} is not what the base model's files give now" in outcome.err,
        )
        path.write_text(text)
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def test_what_does_not_count(family: Family) -> None:
    """Comments in the recipe, memory, workers, --restart and a file that somebody added change no output."""
    merge(family.recipe_path, family.out)
    family.recipe_path.write_text("# a comment\n" + family.recipe_path.read_text())
    (family.out / "notes.txt").write_text("mine")
    before = snapshot(family.out)
    outcome = dovetail("merge", family.recipe_path, family.out, "--memory", "4GiB", "--workers", "1", "--restart")
    text = f"{family.out} is this merge already, verified by its plan; nothing to do.\n"
    assert (0, "", text) == (outcome.code, outcome.out, outcome.err)
    assert before == snapshot(family.out)
    outcome = dovetail("merge", family.recipe_path, family.out, "--quiet")
    assert (0, "", "") == (outcome.code, outcome.out, outcome.err)
    *_, done = dovetail("merge", family.recipe_path, family.out, "--json").events
    assert ("done", True) == (done["event"], done["already"])


def test_models_at_an_address(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of remote models only headers and side files are asked for again; a new version of a file is another input."""
    with serve(family.home) as site:
        family.recipe_path.write_text(
            yaml.safe_dump({**AVERAGE, "models": [{"model": f"{site.address}/{name}"} for name in ("math", "code")]})
        )
        command = ("merge", family.recipe_path, family.out)
        assert 0 == dovetail(*command).code
        unreadable(monkeypatch)
        assert 0 == dovetail(*command).code
        path = family.math / "model.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        outcome = dovetail(*command)
    assert (5, True) == (outcome.code, "/math/model.safetensors has changed since" in outcome.err)

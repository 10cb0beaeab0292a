"""A finished output asked for again: nothing to do for the same command, and any other is told what differs."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine import ExtractionOptions, RunOptions, convert, events, extract_lora, make_moe, merge, read_manifest
from dovetail.engine.output import staging
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.files.mapping import MappedSource
from dovetail.io.output import ZarrFormat
from dovetail.io.remote.source import RemoteSource
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import llama_tensors
from tests.engine.command import dovetail, snapshot
from tests.engine.conftest import Family
from tests.server import serve

AVERAGE = {"merge_method": "linear", "parameters": {"weight": 1}, "dtype": "float32"}
"""A recipe without its models."""

Make = Callable[..., dict[str, Any]]
"""Makes the family's output: takes options of the run and a listener, and gives the manifest."""


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every access to the elements of a tensor an error, be it in a file here or on a server."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor is read")

    for kind, name in itertools.product((MappedSource, RemoteSource), ("read", "populate", "prefetch")):
        monkeypatch.setattr(kind, name, refuse)


def empty(folder: Path) -> None:
    """Put a hole in the place of all tensors of a folder's files; headers, sizes and times stay."""
    for path in folder.glob("*.safetensors"):
        status, raw = path.stat(), path.read_bytes()
        header = raw[: 8 + int.from_bytes(raw[:8], "little")]
        path.write_bytes(header)
        os.truncate(path, len(raw))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Read every file below a folder."""
    return {name: found and found[0] for name, found in snapshot(folder).items()}


@dataclass(frozen=True)
class Kind:
    """One way to make an output."""

    id: str
    """Its name."""
    make: Callable[[Family], Make]
    """Writes what is needed, and gives the function that makes the output."""
    noun: str = "merge"
    """What the output is called."""


def _merge(family: Family, options: PlanOptions | None = None) -> Make:
    return lambda run=None, listen=events.ignore: merge(family.recipe_path, family.out, options, run, listen)


def _staged(family: Family) -> Make:
    models = [{"model": str(path)} for path in (family.math, family.code)]
    documents = [
        {"name": "mean", **AVERAGE, "models": models},
        {"name": "again", **AVERAGE, "models": [{"model": "mean"}, models[0]]},
        {**AVERAGE, "models": [{"model": "again"}, {"model": str(family.base)}]},
    ]
    family.recipe_path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return _merge(family)


def _adapted(family: Family) -> Make:
    write_adapter(family.home / "lora", lora_tensors(1, llama_tensors(0), ("model.layers.1.mlp.up_proj",)))
    models = [{"model": f"{family.math}+{family.home}/lora"}, {"model": str(family.code)}]
    family.recipe_path.write_text(yaml.safe_dump({**AVERAGE, "models": models}))
    return _merge(family)


def _converted(family: Family) -> Make:
    return lambda run=None, listen=events.ignore: convert(
        family.math, family.out, PlanOptions(dtype="float32"), run, listen
    )


def _extracted(family: Family) -> Make:
    asked = ExtractionOptions(rank=2, dtype="float32")
    return lambda run=None, listen=events.ignore: extract_lora(family.math, family.base, family.out, asked, run, listen)


def _mixed(family: Family) -> Make:
    config = json.loads((family.base / "config.json").read_text())
    for folder in (family.base, family.math, family.code):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    experts = [{"source_model": str(each)} for each in (family.math, family.code)]
    asked = {"base_model": str(family.base), "gate_mode": "random", "experts": experts}
    return lambda run=None, listen=events.ignore: make_moe(asked, family.out, None, run, listen)


KINDS = (
    Kind("safetensors", _merge),
    Kind("zarr", lambda family: _merge(family, PlanOptions(ZarrFormat()))),
    Kind("stages", _staged),
    Kind("adapter in a recipe", _adapted),
    Kind("conversion", _converted, "conversion"),
    Kind("extraction", _extracted, "adapter"),
    Kind("mixture", _mixed, "mixture"),
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.id)


@every_kind
def test_the_same_three_times(family: Family, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and the third call read no tensor, change nothing, and give the manifest of the first."""
    make = kind.make(family)
    first = make()
    for folder in (family.base, family.math, family.code):
        empty(folder)
    unreadable(monkeypatch)
    before = snapshot(family.home)
    for _ in range(2):
        heard: list[events.Event] = []
        assert json.loads(json.dumps(first)) == json.loads(json.dumps(make(listen=heard.append)))
        assert [f"{family.out} is this {kind.noun} already, verified by its plan; nothing to do."] == [
            event.text for event in heard if isinstance(event, events.Notice)
        ]
        done = heard[-1]
        assert isinstance(done, events.Done)
        assert (True, 0, 0) == (done.already, done.read_bytes, done.written_bytes)
    assert before == snapshot(family.home)


@every_kind
def test_overwriting_makes_it_again(family: Family, kind: Kind) -> None:
    """With `overwrite` the same output is computed again."""
    make = kind.make(family)
    make()
    before, heard = contents(family.out), []
    make(RunOptions(overwrite=True), heard.append)
    assert [False] == [event.already for event in heard if isinstance(event, events.Done)][-1:]
    assert any(isinstance(event, events.Started) for event in heard)
    assert before == contents(family.out)


LEFT = {"_tidy": "dovetail_journal", "the journal": "dovetail_journal", "the lock": "dovetail_lock"}
"""For each instant of a kill, the file that is the first to be left."""
every_instant = pytest.mark.parametrize("instant", [*LEFT, "the end"])


@every_instant
@every_kind
def test_killed_after_the_last_renaming(
    family: Family, kind: Kind, instant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left of the run, the same command ends well, reads no tensor, and cleans up."""
    make = kind.make(family)
    _killed(make, RunOptions(), instant, family, monkeypatch)
    make()
    _is_tidy(family)


@every_instant
def test_killed_after_an_output_was_replaced(family: Family, instant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds where another output was replaced; --overwrite again ends what is left as long as that is all."""
    make, run = _merge(family), RunOptions(overwrite=True)
    family.out.mkdir()
    (family.out / "old").write_text("old")
    _killed(make, run, instant, family, monkeypatch)
    make(run if LEFT.get(instant) == "dovetail_journal" else RunOptions())
    _is_tidy(family)


def _killed(make: Make, run: RunOptions, instant: str, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the output up to an instant at which the run is killed; no tensor can be read after that."""
    with monkeypatch.context() as patched:
        _kill_at(instant, family, patched)
        with pytest.raises(Killed):
            make(run)
    assert (instant in LEFT) == ("dovetail_lock" in os.listdir(family.out))
    unreadable(monkeypatch)


def _is_tidy(family: Family) -> None:
    assert not {"dovetail_journal", "dovetail_lock", "old"} & set(os.listdir(family.out))
    assert [] == [path.name for path in family.home.iterdir() if path.name.startswith(".")]


def _kill_at(instant: str, family: Family, patched: pytest.MonkeyPatch) -> None:
    """Kill the run when the output has its name: before it tidies up, before a file is removed, or when all is done."""
    tidy, unlink = staging._tidy, Path.unlink

    def ours(place: Path) -> bool:
        return place == family.out

    def tidy_or_die(place: Path, old: Path) -> None:
        if instant == "_tidy" and ours(place):
            raise Killed
        tidy(place, old)
        if instant == "the end" and ours(place):
            raise Killed

    def unlink_or_die(path: Path, missing_ok: bool = False) -> None:
        if ours(path.parent) and path.name == {"the journal": "dovetail_journal", "the lock": "dovetail_lock"}.get(
            instant
        ):
            raise Killed
        unlink(path, missing_ok)

    patched.setattr(staging, "_tidy", tidy_or_die)
    patched.setattr(Path, "unlink", unlink_or_die)


def test_a_run_that_is_about_to_tidy_up_is_left_to_it(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the output's lock, its journal stays: that process will remove it."""
    with monkeypatch.context() as patched:
        _kill_at("_tidy", family, patched)
        with pytest.raises(Killed):
            merge(family.recipe_path, family.out)
    with (family.out / "dovetail_lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert 0 == dovetail("merge", family.recipe_path, family.out).code
        assert (family.out / "dovetail_journal").exists()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    assert not (family.out / "dovetail_journal").exists()


def test_an_output_that_another_process_makes_meanwhile(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes were asked for at once is computed by one: the other sees it when it may begin."""
    from dovetail.engine.actions import carry_out

    prepare = carry_out.prepare

    def be_late(*arguments: Any) -> Any:
        monkeypatch.setattr(carry_out, "prepare", prepare)
        merge(family.recipe_path, family.out)
        return prepare(*arguments)

    monkeypatch.setattr(carry_out, "prepare", be_late)
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert (5, True) == (outcome.code, outcome.err.startswith(f"error: output folder {family.out} is not empty; "))
    assert not family.staging.exists()
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


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
        "its inputs had other times of modification",
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
    make = _staged(family)
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
    make = _extracted(family)
    make()
    asked = ("extract-lora", family.math, family.base, family.out, "--dtype", "float32")
    assert "rank of the options was 2 and is 3" in dovetail(*asked, "--rank", "3").err
    make = _mixed(family)
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


def test_stages_that_are_kept_are_made_again(family: Family) -> None:
    """Where --stages asks for results that are gone, they are made again, and the output stays."""
    make, kept = _staged(family), family.home / "kept"
    make()
    before = snapshot(family.out)
    for _ in range(2):
        assert 0 == dovetail("merge", family.recipe_path, family.out, "--stages", kept).code
        assert ["again", "mean"] == sorted(path.name for path in kept.iterdir())
    assert before == snapshot(family.out)


def test_a_stages_folder_of_another_merge_stays(family: Family) -> None:
    """What an interrupted --overwrite of another recipe has made is kept by a command that has nothing to do."""
    make = _staged(family)
    make()
    text = family.recipe_path.read_text()
    family.recipe_path.write_text(text.replace("weight: 1", "weight: 2"))

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Done):
            raise Killed

    with pytest.raises(Killed):
        make(RunOptions(overwrite=True), stop)
    family.recipe_path.write_text(text)
    make()
    assert (family.home / ".out.dovetail-stages" / "mean" / SHARD).exists()


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

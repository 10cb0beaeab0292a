"""Command lines are read as people type them: mergekit's flags too, and hints look like what was typed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dovetail.engine.cli.flags import PROGRAMS
from dovetail.engine.cli.main import app
from dovetail.engine.cli.parser import WHOLE, Program, UsageError, closest, translate
from tests.engine.command import dovetail
from tests.engine.conftest import Family

OPTIONS = {"--seed": True, "--workers": True, "--stages": True, "--shard-size": True, "--dtype": True, "--quiet": False}
"""The options of a command, and whether each takes a value."""

CPU = "everything is computed on the CPU, within --memory"


@dataclass(frozen=True)
class Line:
    """A command line, and what is left of it."""

    given: str
    """What follows the command's name."""
    left: str
    """What the command parses."""


@pytest.mark.parametrize(
    "line",
    [
        Line("r.yml out", "r.yml out"),
        Line("--lazy-unpickle r.yml --copy-tokenizer out --clone-tensors", "r.yml out"),
        Line("r.yml out --write-threads 8 --lora-merge-cache=cache -v", "r.yml out"),
        Line("r.yml out -vvv", "r.yml out"),
        Line("r.yml out -vj4", "r.yml out --workers 4"),
        Line("r.yml out --random-seed 7 -j4 -I kept", "r.yml out --seed 7 --workers 4 --stages kept"),
        Line("r.yml out --random-seed=-7 --num-threads=4", "r.yml out --seed -7 --workers 4"),
        Line("r.yml out --out-shard-size 5B", "r.yml out --shard-size 5000000000"),
        Line("r.yml out --out-shard-size=500m", "r.yml out --shard-size 500000000"),
        Line("r.yml out --out-shard-size 20000k", "r.yml out --shard-size 20000000"),
        Line("r.yml out --out-shard-size 2000000", "r.yml out --shard-size 2000000"),
        Line("r.yml out --out-shard-size 0", f"r.yml out --shard-size {WHOLE}"),
        Line("--dtype -v out --quiet", "--dtype -v out --quiet"),
        Line("--dtype=float16 -v out", "--dtype=float16 out"),
        Line("r.yml -- --cuda -v", "r.yml -- --cuda -v"),
        Line("- out --no-cuda --no-allow-crimes --device cpu", "- out"),
        Line("r.yml out --unknown -x", "r.yml out --unknown -x"),
    ],
    ids=lambda line: line.given,
)
def test_flags_without_a_word(line: Line) -> None:
    """Flags that need no word are gone, others are options of ours, and all else is as it was."""
    found = translate(line.given.split(), OPTIONS)
    assert (line.left.split(), "", {}) == (found.arguments, found.note, found.environment)


def test_one_note_names_all_flags_without_effect() -> None:
    """The note groups the flags by what happens instead, with their values, in the order in which they were given."""
    given = "r.yml --cuda out --device cuda:1 --trust-remote-code --low-cpu-memory --lora-merge-dtype=bfloat16"
    found = translate(given.split(), OPTIONS)
    assert ["r.yml", "out"] == found.arguments
    assert (
        f"No effect here: --cuda, --device cuda:1, --low-cpu-memory ({CPU}); "
        "--trust-remote-code (no code of a model is ever run); "
        "--lora-merge-dtype bfloat16 (adapters are applied in float32 and rounded only with the result)."
    ) == found.note


def test_a_cache_is_a_variable_of_the_environment() -> None:
    """The folder of downloads is where the hub's library looks; an empty one, as scripts pass, is the default."""
    assert {"HF_HUB_CACHE": str(Path.home() / "c")} == translate(["--transformers-cache", "~/c"], OPTIONS).environment
    assert {} == translate(["--transformers-cache", ""], OPTIONS).environment
    unknown = translate(["--transformers-cache", "~nobody-here/x"], OPTIONS).environment
    assert {"HF_HUB_CACHE": "~nobody-here/x"} == unknown


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("--device", "Option '--device' requires an argument."),
        ("--cuda=yes", "Option '--cuda' does not take a value."),
        ("-I", "Option '-I' requires an argument."),
        (
            "--out-shard-size 5GB",
            "--out-shard-size '5GB' is not understood; expected a number with K, M or B, where 5B is 5GB; for other "
            "units pass --shard-size.",
        ),
        (
            "--out-shard-size 5",
            "--out-shard-size 5 is 5 bytes; expected at least 1 MiB, or 0 for a single file; write the unit, as in 5B, "
            "which is 5GB.",
        ),
        (
            "--out-path x",
            "--out-path, a flag of mergekit-multi, is not accepted; name the folder after the recipe: "
            "'dovetail merge RECIPE OUT'.",
        ),
        ("--no-write-model-card", "--no-write-model-card is not for this command, which has no "),
    ],
)
def test_flags_that_are_refused(given: str, text: str) -> None:
    """What cannot be followed is an error that says what to do instead."""
    with pytest.raises(UsageError) as caught:
        translate(given.split(), OPTIONS)
    assert str(caught.value.message).startswith(text)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--memroy", ["--memory"]),
        ("--shardsize", ["--shard-size"]),
        ("--cuda", []),
        ("--work", ["--workers"]),
        ("-q", []),
    ],
)
def test_suggestions_look_like_what_was_typed(typed: str, expected: list[str]) -> None:
    """Only letters count: that two options begin with hyphens makes them no more alike."""
    assert expected == closest(typed, ("--memory", "--codec", "--shard-size", "--workers", "--quiet", "-h"))


def test_unknown_options_of_every_command() -> None:
    """A command that mergekit lacks suggests nothing for mergekit's flags, and the right option for a slip."""
    outcome = dovetail("convert", "a", "b", "--cuda")
    assert (2, "Error: No such option: --cuda") == (outcome.code, outcome.err.splitlines()[-1])
    outcome = dovetail("convert", "a", "b", "--memroy", "1GB")
    assert "Error: No such option: --memroy (Possible options: --memory)" == outcome.err.splitlines()[-1]


def test_lines_that_are_not_complete() -> None:
    """A shell that asks how a line could go on gets an answer, whatever stands there so far."""
    program = get_command(app)
    assert isinstance(program, Program)
    for line in ("r.yml --out-path", "--device", "r.yml --out-shard-size 5GB", "r.yml --cuda --bogus"):
        context = program.commands["merge"].make_context("merge", line.split(), resilient_parsing=True)
        assert "r.yml" == (context.params["recipe"] or Path("r.yml")).name
    context = program.make_context("dovetail", ["multi"], resilient_parsing=True)
    assert (None, None) == program.resolve_command(context, ["multi"])[:2]


def test_the_note_of_a_merge(family: Family) -> None:
    """A merge says once, on stderr, what has no effect; --quiet leaves it out, and with --json it is an event."""
    flags = ("--cuda", "--lazy-unpickle", "--read-to-gpu")
    note = f"No effect here: --cuda, --read-to-gpu ({CPU})."
    assert f"{note}\n" == dovetail("merge", family.recipe_path, family.out, *flags).err
    assert "" == dovetail("merge", family.recipe_path, family.out, *flags, "--overwrite", "--quiet").err
    outcome = dovetail("merge", family.recipe_path, family.out, *flags, "--overwrite", "--json")
    assert {"event": "notice", "level": "info", "text": note} == outcome.events[0]
    assert f"{note}\n" == dovetail("plan", family.recipe_path, *flags, "--quiet", "-v").err


def test_a_cache_is_set_for_the_time_of_the_command(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge looks for models in the cache that the flag names, and afterwards the environment is as before."""
    seen: list[str | None] = []

    def look(*arguments: Any, **named: Any) -> None:
        seen.append(os.environ.get("HF_HUB_CACHE"))
        raise KeyboardInterrupt

    monkeypatch.setattr("dovetail.engine.actions.merge.merge", look)
    for before in ("elsewhere", None):
        if before:
            monkeypatch.setenv("HF_HUB_CACHE", before)
        else:
            monkeypatch.delenv("HF_HUB_CACHE")
        dovetail("merge", family.recipe_path, family.out, "--transformers-cache", "here")
        assert before == os.environ.get("HF_HUB_CACHE")
    assert ["here", "here"] == seen


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_of_mergekit(program: str) -> None:
    """Whoever types the name of one of mergekit's programs, whole or without its first word, is told what to use."""
    names = {program, program.removeprefix("mergekit-")} - {"moe", "extract-lora"}
    for name in names:
        outcome = dovetail(name, "config.yml", "out")
        assert 2 == outcome.code
        assert f"Error: No such command {name!r}; {PROGRAMS[program]}." == outcome.err.splitlines()[-1]

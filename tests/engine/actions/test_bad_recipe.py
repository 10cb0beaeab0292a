"""Bad recipes and options through the command line: the whole text, the exit code, and nothing made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.cli.options import LEAST_BYTES
from dovetail.engine.methods.registry import METHODS
from tests.engine.command import Outcome, dovetail, dovetail_process, snapshot
from tests.engine.conftest import Family

CABS_PARAMETERS = "one of weight, n, m, pruning_order, overlap, consensus, granularity, conflict_aware, balanced"


@dataclass(frozen=True)
class Mistake:
    """One way in which a recipe can be wrong."""

    id: str
    """What is wrong."""
    changes: dict[str, Any]
    """Keys of the recipe that differ."""
    text: str
    """The whole error after the recipe's name; ``{math}`` and ``{base}`` are folders."""
    line: int | None = None
    """The line that the error names, counted from 1."""


def parameters(**changes: Any) -> dict[str, Any]:
    """Give the recipe's parameters with some of them changed."""
    return {"parameters": {"n": 4, "m": 16, "weight": 0.8} | changes}


MISTAKES = (
    Mistake(
        "unknown method",
        {"merge_method": "cabz"},
        f"merge_method is 'cabz' (did you mean 'cabs'?); expected one of {', '.join(METHODS)}",
        1,
    ),
    Mistake(
        "unknown key",
        {"base_modle": "x"},
        "base_modle is an unknown key; expected one of name, merge_method, base_model, models, slices, modules, "
        "parameters, vectors, dtype, out_dtype, chat_template, tokenizer_source, tokenizer; did you mean 'base_model'?",
        11,
    ),
    Mistake(
        "unknown parameter",
        parameters(overlapp="forbid"),
        f"parameters.overlapp is not a parameter of cabs; expected {CABS_PARAMETERS}; did you mean 'overlap'?",
        10,
    ),
    Mistake(
        "unknown choice",
        parameters(overlap="forbidden"),
        "parameters.overlap is 'forbidden'; expected one of forbid, minimize; did you mean 'forbid'?",
        10,
    ),
    Mistake(
        "unknown dtype",
        {"dtype": "bfloat61"},
        "dtype is 'bfloat61'; expected one of float32, float16, bfloat16, float64, float8_e4m3fn, float8_e5m2; did you "
        "mean 'bfloat16'?",
        10,
    ),
    Mistake("n is a word", parameters(n="four"), "parameters.n is 'four'; expected a whole number below 2^63", 7),
    Mistake("n is not whole", parameters(n=4.5), "parameters.n is 4.5; expected a whole number below 2^63", 7),
    Mistake(
        "no weight",
        {"parameters": {"n": 4, "m": 16}},
        "models[0].parameters.weight is missing for model {math}; expected a value; give weight there, or for all "
        "models in the parameters at the top",
        4,
    ),
    Mistake(
        "no models",
        {"models": []},
        "the recipe has no models to merge; expected exactly one of models, slices, modules",
    ),
    Mistake(
        "no base model",
        {"base_model": None},
        "merge_method cabs has no base_model to compare with; expected the model that the others were made from; add "
        "'base_model: PATH'",
        1,
    ),
)


def refused(family: Family, *options: str | Path) -> Outcome:
    """Run a merge that must fail before it makes or changes anything."""
    before = snapshot(family.home)
    outcome = dovetail("merge", family.recipe_path, family.out, *options, least_bytes=LEAST_BYTES)
    assert before == snapshot(family.home)
    assert "" == outcome.out
    return outcome


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_wrong_recipe_is_refused(family: Family, mistake: Mistake) -> None:
    """The error names the file, the line, the key path and the nearest valid name; the exit code is 2."""
    family.recipe(**mistake.changes)
    outcome = refused(family)
    place = f"{family.recipe_path}, line {mistake.line}" if mistake.line else str(family.recipe_path)
    assert f"error: {place}: {mistake.text.format(math=family.math, base=family.base)}\n" == outcome.err
    assert 2 == outcome.code


@pytest.mark.parametrize(
    ("n", "m", "text"),
    [
        (17, 16, "n is 17 for {where}; expected 0 <= n <= m, and m is 16; correct 'n' or 'm' in the recipe"),
        (-1, 16, "n is -1 for {where}; expected 0 <= n <= m, and m is 16; correct 'n' or 'm' in the recipe"),
        (0, 0, "m is 0 for {where}; expected a whole number from 1 to 65536; correct 'm' in the recipe"),
        (4, -16, "m is -16 for {where}; expected a whole number from 1 to 65536; correct 'm' in the recipe"),
        (1, 65537, "m is 65537 for {where}; expected a whole number from 1 to 65536; correct 'm' in the recipe"),
    ],
)
def test_impossible_blocks_are_refused(family: Family, n: int, m: int, text: str) -> None:
    """An n:m with which no block can be pruned is an error that names model and tensor; the exit code is 2."""
    family.recipe(**parameters(n=n, m=m))
    outcome = refused(family)
    where = f"model {family.math}, tensor 'lm_head.weight'"
    assert f"error: {text.format(where=where)}\n" == outcome.err
    assert 2 == outcome.code


def test_a_recipe_that_is_not_there(family: Family) -> None:
    """A missing recipe is a wrong recipe: exit code 2, with the path."""
    outcome = dovetail("merge", family.home / "nothing.yml", family.out)
    assert (
        f"error: recipe '{family.home}/nothing.yml' cannot be read: No such file or directory; expected a readable "
        "YAML file; correct its path\n"
    ) == outcome.err
    assert 2 == outcome.code


def test_a_recipe_that_is_not_yaml(family: Family) -> None:
    """The error names the line at which the text stops being YAML."""
    family.recipe_path.write_text("merge_method: cabs\nmodels: [\n")
    outcome = refused(family)
    assert (
        f"error: {family.recipe_path}, line 3: the text is not valid YAML: expected the node content, but found "
        "'<stream end>'; expected YAML\n"
    ) == outcome.err
    assert 2 == outcome.code


def test_a_recipe_runs_no_code(family: Family) -> None:
    """A tag that would make PyYAML's unsafe loader call a function is refused by name."""
    marker = family.home / "marker"
    family.recipe_path.write_text(f"merge_method: !!python/object/apply:os.mkdir ['{marker}']\n")
    outcome = refused(family)
    assert (2, False) == (outcome.code, marker.exists())
    assert (
        f"error: {family.recipe_path}, line 1: merge_method has the tag "
        "'tag:yaml.org,2002:python/object/apply:os.mkdir'; expected no tags\n"
    ) == outcome.err


@dataclass(frozen=True)
class BadOption:
    """One wrong use of the command."""

    id: str
    """What is wrong."""
    options: tuple[str, ...]
    """Options added to a right command."""
    text: str
    """The whole error."""


@pytest.mark.parametrize(
    "bad",
    [
        BadOption(
            "memory",
            ("--memory", "lots"),
            "size 'lots' is not understood; expected a positive number with a unit, such as 512MiB, 2GB or 1.5g",
        ),
        BadOption(
            "negative memory",
            ("--memory", "-1GB"),
            "size '-1GB' is not understood; expected a positive number with a unit, such as 512MiB, 2GB or 1.5g",
        ),
        BadOption(
            "shard size",
            ("--shard-size", "0"),
            "size '0' is not understood; expected a positive number with a unit, such as 512MiB, 2GB or 1.5g",
        ),
        BadOption(
            "shard of single bytes",
            ("--shard-size", "5B"),
            "--shard-size 5B is 5 bytes; expected at least 1 MiB; write the unit, as in 512MiB or 5GB: B, or no unit "
            "at all, means single bytes",
        ),
        BadOption(
            "memory of single bytes",
            ("--memory", "512"),
            "--memory 512 is 512 bytes; expected at least 1 MiB; write the unit, as in 512MiB or 5GB: B, or no unit "
            "at all, means single bytes",
        ),
        BadOption(
            "zarr shard of single bytes",
            ("--format", "zarr", "--zarr-shards", "1B"),
            "--zarr-shards 1B is 1 byte; expected at least 1 MiB; write the unit, as in 512MiB or 5GB: B, or no unit "
            "at all, means single bytes",
        ),
        BadOption(
            "dtype",
            ("--dtype", "bf61"),
            "unknown dtype 'bf61'; expected one of float16, bfloat16, float32, float64, float8_e4m3fn, float8_e5m2; "
            "did you mean 'bf16'?",
        ),
        BadOption(
            "integer dtype",
            ("--dtype", "int8"),
            "output dtype is int8; expected a floating-point dtype, such as bfloat16",
        ),
    ],
    ids=lambda bad: bad.id,
)
def test_a_bad_value_of_an_option_is_refused(family: Family, bad: BadOption) -> None:
    """A bad value that the command itself checks has an error like any other; the exit code is 2."""
    outcome = refused(family, *bad.options)
    assert (2, f"error: {bad.text}\n") == (outcome.code, outcome.err)


@dataclass(frozen=True)
class Misuse:
    """One wrong command line."""

    arguments: tuple[str, ...]
    """What follows the command's name."""
    says: str
    """Part of standard error."""


MISUSES = (
    Misuse(("merge",), "Error: Missing argument 'RECIPE'."),
    Misuse(("merge", "r.yml"), "Error: Missing argument 'OUT'."),
    Misuse(("merge", "r.yml", "out", "--bogus"), "Error: No such option: --bogus"),
    Misuse(("merge", "r.yml", "out", "--workers", "0"), "Error: Invalid value for '--workers'"),
    Misuse(("merge", "r.yml", "out", "--workers", "two"), "Error: Invalid value for '--workers'"),
    Misuse(("merge", "r.yml", "out", "--nonfinite", "drop"), "Error: Invalid value for '--nonfinite'"),
    Misuse(("merge", "r.yml", "out", "--format", "zip"), "Error: Invalid value for '--format'"),
    Misuse(("mergee",), "Error: No such command 'mergee'. Did you mean 'merge'?"),
)


@pytest.mark.parametrize("misuse", MISUSES, ids=lambda misuse: " ".join(misuse.arguments))
def test_wrong_usage_is_explained(misuse: Misuse) -> None:
    """A wrong command line prints its usage and what is wrong to stderr, and exits with 2."""
    outcome = dovetail(*misuse.arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith("Usage: ")
    assert misuse.says in outcome.err
    assert "Traceback" not in outcome.err


def test_wrong_usage_is_a_json_event_too() -> None:
    """With --json, the error of a wrong command line is an event, as all other errors are."""
    outcome = dovetail("merge", "r.yml", "out", "--bogus", "--json")
    assert [{"event": "error", "text": "No such option: --bogus", "exit_code": 2}] == outcome.events
    assert 2 == outcome.code


def test_no_command_shows_the_help() -> None:
    """Without arguments the command lists its subcommands and exits with 2, in this process and in another."""
    for outcome in (dovetail(), dovetail_process()):
        assert (2, "") == (outcome.code, outcome.out)
        for command in ("merge", "plan", "inspect", "verify", "methods", "demo"):
            assert f"\n  {command} " in outcome.err


def test_errors_are_json_events(family: Family) -> None:
    """With --json an error is an event on stdout, with its exit code, and still a line on stderr."""
    family.recipe(merge_method="cabz")
    outcome = dovetail("merge", family.recipe_path, family.out, "--json")
    (event,) = outcome.events
    assert ("error", 2) == (event["event"], event["exit_code"])
    assert f"error: {event['text']}\n" == outcome.err
    assert "did you mean 'cabs'?" in event["text"]


def test_debug_shows_where_an_error_comes_from(family: Family) -> None:
    """With --debug the traceback precedes the same last line."""
    family.recipe(merge_method="cabz")
    plain = dovetail("plan", family.recipe_path)
    outcome = dovetail("plan", family.recipe_path, "--debug")
    assert outcome.err.startswith("Traceback (most recent call last):\n")
    assert outcome.err.endswith(plain.err)
    assert "dovetail.engine.errors.RecipeError: " in outcome.err
    assert (2, 2) == (plain.code, outcome.code)

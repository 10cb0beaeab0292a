"""What users of other command lines expect: help, version, standard input, ``~``, lines that fit, completion."""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dovetail.engine.cli.report import display
from tests.engine.command import COMMAND, Outcome, dovetail
from tests.engine.conftest import Family
from tests.pace import HANGS_S
from tests.packaging import ROOT


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes, *arguments: str | Path) -> Outcome:
    """Run the command in this process with something on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return dovetail(*arguments)


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(option: str) -> None:
    """Both names of the option print the version of the distribution."""
    outcome = dovetail(option)
    assert (0, f"dovetail {importlib.metadata.version('dovetail')}\n", "") == (outcome.code, outcome.out, outcome.err)


def test_help_is_a_command_too() -> None:
    """``dovetail help`` and ``dovetail help COMMAND`` print what ``--help`` does."""
    assert dovetail("--help") == dovetail("help")
    for command in ("merge", "extract-lora", "demo", "help"):
        assert dovetail(command, "--help") == dovetail("help", command)
    for command in ("train", "extract"):
        assert dovetail("modules", command, "--help") == dovetail("help", "modules", command)
    assert dovetail("modules", "--help") == dovetail("help", "modules")


def test_help_of_no_command() -> None:
    """A command that does not exist is an error that lists all and suggests the nearest."""
    outcome = dovetail("help", "mrge")
    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith("error: there is no command 'mrge'; expected one of merge, vectors, convert, ")
    assert outcome.err.endswith(", demo, modules; did you mean 'merge'?\n")
    outcome = dovetail("help", "modules", "extrct")
    assert outcome.err.startswith("error: there is no command 'modules extrct'; expected one of train, count, ")
    assert outcome.err.endswith("; did you mean 'extract'?\n")
    outcome = dovetail("help", "merge", "fast")
    assert "error: there is no command 'merge fast'; expected 'merge' alone\n" == outcome.err


def test_the_package_runs_as_a_module() -> None:
    """``python -m dovetail.engine`` is the command, and calls itself so."""
    done = subprocess.run(
        [sys.executable, "-m", "dovetail.engine", "merge", "--help"], capture_output=True, text=True, timeout=HANGS_S
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("Usage: dovetail merge ")


def test_the_whole_package_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m dovetail`` is the command too."""
    monkeypatch.setattr(sys, "argv", ["dovetail", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "api" / "__main__.py"), run_name="__main__")
    assert (0, f"dovetail {importlib.metadata.version('dovetail')}\n") == (
        ended.value.code or 0,
        capsys.readouterr().out,
    )


def test_a_recipe_on_standard_input(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is a recipe on standard input; its models are looked for from the current folder; files give the same."""
    assert 0 == dovetail("merge", family.recipe_path, family.home / "expected").code
    monkeypatch.chdir(family.home)
    content = yaml.safe_load(family.recipe_path.read_text())
    content["base_model"], names = "base", ("math", "code")
    for model, name in zip(content["models"], names, strict=True):
        model["model"] = name
    text = yaml.safe_dump(content)
    planned = piped(monkeypatch, text.encode(), "plan", "-")
    assert (0, "", True) == (planned.code, planned.err, "Models      math, code\n" in planned.out)
    assert 0 == piped(monkeypatch, text.encode(), "merge", "-", "out").code
    shards = [(folder / "model.safetensors").read_bytes() for folder in (family.out, family.home / "expected")]
    assert shards[0] == shards[1]
    assert text == (family.out / "dovetail_recipe.yml").read_text()
    again = piped(monkeypatch, b"\xef\xbb\xbf" + text.encode(), "merge", "-", "out")
    assert (0, "out is this merge already, verified by its plan; nothing to do.\n") == (again.code, again.err)
    flow = yaml.safe_dump(content, default_flow_style=True, width=10_000).encode().strip()
    assert b"\n" not in flow
    assert 0 == piped(monkeypatch, flow, "merge", "-", "out").code


def test_what_is_wrong_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors name standard input and the line, and nothing at all is an error too."""
    for data, text in {
        b"": "there is no recipe on standard input; expected YAML text; pipe it in, or name a file",
        b" \n": "there is no recipe on standard input; expected YAML text; pipe it in, or name a file",
        b"a: \xff": "standard input: byte 3 is not UTF-8 text; expected text in UTF-8; save it in that encoding",
    }.items():
        outcome = piped(monkeypatch, data, "plan", "-")
        assert (2, f"error: {text}\n") == (outcome.code, outcome.err)
    outcome = piped(monkeypatch, b"models: [{model: a}]\nmerge_method: tie\n", "merge", "-", "out")
    assert (2, True) == (outcome.code, outcome.err.startswith("error: standard input, line 2: merge_method is 'tie'"))


def test_a_tilde_is_the_home_folder(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a path is taken, ``~`` is the home folder, though no shell has replaced it."""
    monkeypatch.setenv("HOME", str(family.home))
    monkeypatch.chdir(family.home / "math")
    stage = {"merge_method": "linear", "parameters": {"weight": 1}}
    documents = [{"name": "one", "models": [{"model": "~/math"}], **stage}, {"models": [{"model": "one"}], **stage}]
    (family.home / "staged.yml").write_text(yaml.safe_dump_all(documents))
    for arguments in (
        ("merge", "~/recipe.yml", "~/merged"),
        ("merge", "~/staged.yml", "~/final", "--stages", "~/kept"),
        ("plan", "~/staged.yml", "--stages=~/kept"),
        ("convert", "~/math", "~/converted"),
        ("convert", "~/math", "~/code", "~/both"),
        ("extract-lora", "~/math", "~/base", "~/lora", "--rank", "1"),
        ("inspect", "~/merged"),
        ("compare", "~/converted", "~/both/math"),
        ("verify", "~/merged"),
    ):
        outcome = dovetail(*arguments)
        assert 0 == outcome.code, (arguments, outcome)
    made = {"merged", "final", "kept", "converted", "both", "lora"}
    assert made == {path.name for path in family.home.iterdir()} - {"base", "math", "code", "recipe.yml", "staged.yml"}
    assert "~" not in os.listdir()


def test_methods_by_name() -> None:
    """Methods that are named are shown alone; a name that is none is an error."""
    lines = dovetail("methods", "slerp", "ties").out.splitlines()
    assert ["slerp", "ties"] == [line.split(":")[0] for line in lines if line and not line.startswith(" ")]
    outcome = dovetail("methods", "tie")
    text = "error: there is no method 'tie' (did you mean 'ties'?); expected one of cabs, "
    assert (2, text) == (outcome.code, outcome.err[: len(text)])


TABLES = (
    ("methods",),
    ("plan", "recipe.yml"),
    ("inspect", "base"),
    ("compare", "base", "code", "--max-rel", "9"),
    ("merge", "recipe.yml", "out", "--overwrite"),
    ("verify", "out"),
    ("vectors", "recipe.yml", "store", "--overwrite"),
    ("extract-lora", "math", "base", "lora", "--rank", "2", "--overwrite"),
)


def test_every_line_fits(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """With COLUMNS no line of a table or sentence is longer; nothing is ever cut off, and no line ends in blanks."""
    monkeypatch.chdir(family.home)
    for columns in (None, "100", "80", "60"):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        for arguments in TABLES:
            outcome = dovetail(*arguments)
            assert 0 == outcome.code, outcome
            lines = outcome.out.splitlines()
            assert [] == [line for line in lines if line != line.rstrip()]
            assert "…" not in outcome.out
            assert "\x1b" not in outcome.out
            logged = arguments[0] in ("merge", "vectors", "extract-lora")
            said = lines[1:] if logged else lines  # the first line is of the log
            long = [line for line in said if columns is not None and len(line) > int(columns)]
            assert [] == [line for line in long if "https://" not in line], arguments  # an address stays whole


def test_colours_are_for_terminals_that_want_them(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, unless NO_COLOR is set; one that cannot move its cursor gets lines and no bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    command = ("merge", family.recipe_path, family.out, "--overwrite", "--dtype", "float16")
    assert isinstance(display.choose_display(quiet=False, as_json=False), display.LiveDisplay)
    assert coloured.search(dovetail(*command).out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(dovetail(*command).out)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display.choose_display(quiet=False, as_json=False), display.PlainDisplay)


COMPLETIONS = (
    ("m", {"merge", "moe", "methods"}),
    ("methods da", {"dare_linear", "dare_ties"}),
    ("merge --over", {"--overwrite"}),
    ("merge --format ", {"safetensors", "zarr"}),
    ("merge --dtype bf", {"bfloat16"}),
    ("help ex", {"extract-lora"}),
)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "expected"), COMPLETIONS)
def test_what_shells_are_told(shell: str, line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, options, methods, formats and dtypes complete in each of three shells."""
    words = f"dovetail {line}"
    monkeypatch.setenv("_DOVETAIL_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    found = set(re.findall(r"[\w-]+", dovetail().out.replace('\\"', '"')))
    assert expected <= found
    others = {"convert", "cabs", "--memory", "safetensors", "float16"} - expected
    assert set() == others & found


def test_completion_in_bash(tmp_path: Path) -> None:
    """In a real bash the printed script completes names, and leaves paths to the shell."""
    script = tmp_path / "dovetail"
    script.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    code = (
        'eval "$(dovetail --show-completion)"; complete -p dovetail; COMP_WORDS=(dovetail methods da); COMP_CWORD=2; '
        '_dovetail_completion dovetail; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        timeout=HANGS_S,
    )
    assert ("complete -o default -F _dovetail_completion dovetail\ndare_linear dare_ties\n", "") == (
        done.stdout,
        done.stderr,
    )

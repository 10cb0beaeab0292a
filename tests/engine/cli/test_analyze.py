"""The command that analyses models: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dovetail.engine.actions import saved_analysis
from dovetail.engine.actions.saved_analysis import read_analysis
from dovetail.engine.errors import VerificationError
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family


def test_tables_for_people(family: Family) -> None:
    """A recipe's models, their pairs, layers and kinds are shown, and at the end what is to be looked at."""
    outcome = dovetail("analyze", family.recipe_path, "--n", "4", "--m", "16")
    assert 0 == outcome.code, outcome.err
    for expected in (
        "Changes from base:",
        "of base's",
        "in 4:16",
        "math, code",
        "by layer:",
        "self_attn.q_proj.weight",
    ):
        assert expected in outcome.out
    *_, verdict, last = outcome.out.splitlines()
    assert "Nothing stands out." == verdict
    assert last.startswith("9 tensors analysed (219 KiB at ")


def test_models_without_a_recipe(family: Family) -> None:
    """--base with models gives what the recipe gives; what stands out can be all that is printed."""
    outcome = dovetail("analyze", "--base", family.base, family.math, family.math, "--quiet")
    assert 0 == outcome.code, outcome.err
    assert outcome.out.startswith("look: math is named several times.")
    both = [
        dovetail("analyze", *words, "--json").events[-1]["total"]
        for words in ((family.recipe_path,), ("--base", family.base, family.math, family.code))
    ]
    assert both[0] == both[1]


def test_json_and_files(family: Family) -> None:
    """--json ends with one object that has everything, and --save writes the same to a file."""
    path = family.home / "analysis.json"
    outcome = dovetail("analyze", family.recipe_path, "--json", "--save", path)
    assert 0 == outcome.code, outcome.err
    last = outcome.events[-1]
    assert "analysis" == last.pop("event")
    assert last == read_analysis(path)
    assert 0 == dovetail("analyze", family.recipe_path, "--quiet", "--save", path).code


def test_pages(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """--html writes the page, and dovetail report makes the same of the saved figures; other files stay."""
    pytest.importorskip("plotly")
    monkeypatch.chdir(family.home)
    assert 0 == dovetail("analyze", "recipe.yml", "--save", "found.json", "--html", "page.html", "--quiet").code
    outcome = dovetail("report", "found.json")
    assert 0 == outcome.code, outcome.err
    assert (family.home / "page.html").read_bytes() == (family.home / "found-report.html").read_bytes()
    (family.home / "found.json").write_text('{"format": "dovetail analysis", "version": 1}')
    outcome = dovetail("report", "found.json")
    assert (5, True) == (outcome.code, "found.json cannot be used" in outcome.err)
    (family.home / "notes.html").write_text("mine")
    assert 5 == dovetail("analyze", "recipe.yml", "--html", "notes.html").code
    assert "mine" == (family.home / "notes.html").read_text()


@pytest.mark.parametrize("content", [b"{}", b"text"])
def test_other_files_are_not_replaced(family: Family, content: bytes) -> None:
    """A file that is no analysis stays unless --overwrite is given, and nothing is read for it."""
    path = family.home / "notes.json"
    path.write_bytes(content)
    outcome = dovetail("analyze", family.recipe_path, "--save", path)
    assert (5, content) == (outcome.code, path.read_bytes())
    assert "is there already and is no analysis" in outcome.err
    assert 0 == dovetail("analyze", family.recipe_path, "--quiet", "--save", path, "--overwrite").code
    assert 5 == dovetail("analyze", family.recipe_path, "--save", family.home).code
    assert 5 == dovetail("analyze", family.recipe_path, "--save", family.home / "none" / "x.json").code


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """An analysis that was cut short, or is of another version, is not shown."""
    path = tmp_path / "analysis.json"
    for text in ('{"format": "dovetail analysis"', json.dumps({"format": "dovetail analysis", "version": 9})):
        path.write_text(text)
        with pytest.raises(VerificationError, match="cannot be used"):
            read_analysis(path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("math", "code"), 2, "need --base MODEL"),
        (("recipe.yml", "--m", "0"), 2, "m is 0; expected"),
        (("recipe.yml", "--n", "9", "--m", "4"), 2, "n is 9 and m is 4"),
        (("nothing.yml",), 2, "cannot be read"),
        (("--base", "base", "nothing"), 3, "nothing"),
        (("--base", "a+b+c", "recipe.yml"), 2, "names no model"),
        (("--base", "base", "base"), 2, "no model besides the base model"),
        (("recipe.yml", "--memory", "20MiB"), 4, "pass --memory"),
    ],
)
def test_errors(family: Family, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str) -> None:
    """Every mistake is one line that says what to do, with the exit code that it has elsewhere."""
    monkeypatch.chdir(family.home)
    outcome = dovetail("analyze", *words)
    assert code == outcome.code, outcome.err
    assert said in outcome.err


def test_nan_is_an_error_unless_it_is_kept(tmp_path: Path) -> None:
    """--nonfinite keep counts such values as unchanged, and says so."""
    base = llama_tensors(0)
    tuned = llama_tensors(1, base)
    tuned["lm_head.weight"][0, 0] = float("nan")
    paths = [write_checkpoint(tmp_path / name, each) for name, each in (("base", base), ("a", tuned))]
    assert 3 == dovetail("analyze", "--base", *paths).code
    outcome = dovetail("analyze", "--base", *paths, "--nonfinite", "keep", "--quiet")
    assert (0, True) == (outcome.code, "1 value of a is NaN or infinite" in outcome.out)


def test_one_file_for_both_is_refused(family: Family) -> None:
    """Figures and page cannot have one name, of which the second would replace the first."""
    outcome = dovetail("analyze", family.recipe_path, "--save", family.home / "x", "--html", family.home / "x")
    assert (2, True) == (outcome.code, "--save and --html both name" in outcome.err)


@pytest.mark.parametrize(
    "rest",
    [
        '"version": 1, "models": ' + "[" * 100_000 + "]" * 100_000,
        '"version": 1, "base": "b", "models": 7',
        '"version": 1' + ', "x": 1e999' * 3,
    ],
    ids=["deep", "wrong", "large"],
)
def test_hostile_files_are_refused(tmp_path: Path, rest: str) -> None:
    """A file that only begins like an analysis ends in one line."""
    path = tmp_path / "analysis.json"
    path.write_text(f'{{"format": "dovetail analysis", {rest}}}')
    outcome = dovetail("report", path)
    assert (5, 1) == (outcome.code, outcome.err.count("\n"))
    assert "analysis.json cannot be used" in outcome.err


def test_hostile_files_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has more values than any analysis is refused before it is decoded."""
    monkeypatch.setattr(saved_analysis, "_MOST_VALUES", 50)
    path = tmp_path / "analysis.json"
    path.write_text('{"format": "dovetail analysis", "version": 1, "x": [' + "[]," * 60 + "[]]}")
    outcome = dovetail("report", path)
    assert (5, True) == (outcome.code, "it is larger than any analysis" in outcome.err)

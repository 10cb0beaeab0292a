"""Killing a search at random instants and continuing it, for test_search.py and bench/search.py.

Each attempt is a forked process, which starts at once. Its evaluator writes down what it has evaluated, so that what
was evaluated twice is known: only a candidate whose outcome had not become durable may be.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.search import search
from tests.checkpoints import folder_bytes, llama_tensors, read_output, write_checkpoint
from tests.crash import killed_after
from tests.engine.conftest import Family
from tests.engine.searching.searches import Weights, marked


@dataclass(frozen=True, slots=True)
class Outcome:
    """What many kills have shown."""

    kills: int
    """Attempts that were killed."""
    expected: dict[str, bytes]
    """The files of an uninterrupted search: history, recipe and model."""
    found: dict[str, bytes]
    """Those of the search that was killed."""
    repeated: list[str]
    """Candidates that were evaluated again although the journal had their outcome."""


def make_family(home: Path) -> Family:
    """Make a base model and two fine-tunes."""
    made, base = Family(home), llama_tensors(0)
    write_checkpoint(made.base, base)
    write_checkpoint(made.math, llama_tensors(1, base))
    write_checkpoint(made.code, llama_tensors(2, base))
    return made


def kill_until_done(family: Family, folder: Path, *, kills: int, seed: int, given: str, budget: int = 20) -> Outcome:
    """Search again and again, killing most attempts, until so many kills have happened and a search is done."""
    folder.mkdir()
    weights = Weights(family)
    log = folder / "log"

    def evaluate(subject: Any) -> dict[str, float]:
        tensors = read_output(subject) if given == "folder" else subject
        losses = weights.losses(tensors)
        with log.open("a") as file:
            file.write(f"{losses}\n")
        return losses

    def run(output: Path) -> None:
        how = SearchOptions(budget=budget, given=given, evaluations=2)
        search(marked(family), evaluate, output, how)

    began = time.monotonic()
    assert not killed_after(1e9, lambda: run(folder / "whole"))
    duration, delays, done, repeated = time.monotonic() - began, random.Random(seed), 0, []
    expected = files_of(folder / "whole")
    found: dict[str, bytes] = {}
    while done < kills or not found:
        log.unlink(missing_ok=True)
        shutil.rmtree(folder / "out", ignore_errors=True)
        journalled: set[str] = set()
        while not (folder / "out").exists():
            before = len(log.read_text().splitlines()) if log.exists() else 0
            done += killed_after(delays.uniform(0.0, 0.6 * duration), lambda: run(folder / "out"))
            lines = log.read_text().splitlines() if log.exists() else []
            repeated += [line for line in lines[before:] if line in journalled]
            safe = outcomes(folder / ".out.dovetail-partial" / "dovetail_journal")
            if safe <= journalled:  # on a busy machine it may take long until anything is safe
                duration *= 1.25
            journalled |= safe
        # A kill after the renaming may have left something to tidy up.
        assert not killed_after(1e9, lambda: run(folder / "out"))
        found = files_of(folder / "out")
        if found != expected:
            break
    return Outcome(done, expected, found, repeated)


def outcomes(journal: Path) -> set[str]:
    """Read the outcomes that a journal has in whole lines."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True)[1:]
    except OSError:
        return set()
    return {str(json.loads(line.rpartition(b" ")[0])["result"]) for line in lines if line.endswith(b"\n")}


def files_of(output: Path) -> dict[str, bytes]:
    """Read the history, the recipe and the files of the model."""
    files = {name: (output / name).read_bytes() for name in ("history.json", "recipe.yml")}
    assert {*files, "model"} == {path.name for path in output.iterdir()}
    return files | {f"model/{name}": data for name, data in folder_bytes(output / "model").items()}

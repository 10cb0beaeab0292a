"""Whole searches: what they find, what they leave, and that they go the same way whatever happens."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import events, merge, verify
from dovetail.engine.errors import (
    DiskSpaceError,
    EvaluationError,
    InterruptedMergeError,
    MemoryLimitError,
    OutputError,
    RecipeError,
)
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching import candidates, request
from dovetail.engine.searching.candidates import Maker
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.search import search
from tests.checkpoints import folder_bytes, read_output, write_recipe
from tests.engine.conftest import Family
from tests.engine.searching.searches import TARGET, Weights, history_of, in_memory, marked


def test_finds_the_best_weights(family: Family) -> None:
    """CMA-ES with awa comes near the known optimum, and its recipe and model are those of the best candidate."""
    weights = Weights(family)
    found = search(marked(family), weights.losses, family.out, in_memory(budget=60))
    assert np.allclose(list(TARGET.values()), list(found.values.values()), atol=0.1)
    assert 60 >= found.evaluated == weights.calls
    assert {"recipe.yml", "model", "history.json"} == {path.name for path in family.out.iterdir()}
    assert np.allclose(list(found.values.values()), weights.of(read_output(found.model)), atol=1e-3)
    assert "awa" == found.history["objective"]
    assert "SearchResult" in repr(found)


def test_recipe_merges_to_the_model(family: Family) -> None:
    """``merge`` takes the recipe that is left, and gives the model that is left, byte for byte; it can be verified."""
    found = search(marked(family), Weights(family).losses, family.out, in_memory(budget=3))
    merge(found.recipe, family.home / "again")
    assert folder_bytes(found.model) == folder_bytes(family.home / "again")
    assert () == verify(found.model).damage


def test_models_beside_the_recipe(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that only the recipe's folder explains are written anew, so that the best recipe works where it lies."""
    (family.home / "recipes").mkdir()
    models = [{"model": f"../{name}", "parameters": {"weight": {"search": [0, 1]}}} for name in ("math", "code")]
    order = {"pruning_order": ["../code", "../math"], "n": 1, "m": 4}
    path = write_recipe(
        family.home / "recipes" / "r.yml", merge_method="cabs", base_model="../base", models=models, parameters=order
    )
    (family.home / "some" / "where").mkdir(parents=True)
    monkeypatch.chdir(family.home / "some" / "where")
    found = search(path, lambda tensors: 1.0, family.home / "results" / "out", in_memory(budget=2))
    text = found.recipe.read_text()
    assert "base_model: ../../base\n" in text
    assert "- ../../code\n  - ../../math\n" in text
    merge(found.recipe, family.home / "again")
    assert read_output(found.model).keys() == read_output(family.home / "again").keys()


def test_history_says_it_all(family: Family) -> None:
    """The history has what was searched and how, every candidate with its values, result and cost, and the best."""
    recipe = marked(family, parameters={"lambda": {"search": {"choices": [1.0, 0.5]}, "start": 0.5}})
    found = search(recipe, Weights(family).losses, family.out, in_memory(optimizer="random", seed=3, budget=5))
    history = json.loads(history_of(family.out))
    assert found.history == history
    assert ["weight[math]", "weight[code]", "lambda"] == [each["name"] for each in history["searched"]]
    assert {"name": "lambda", "kind": "choice", "choices": [1.0, 0.5]}.items() <= history["searched"][2].items()
    assert {"weight[math]": 1.0, "weight[code]": 1.0, "lambda": 0.5} == history["candidates"][0]["values"]
    costs = [each["cost"] for each in history["candidates"]]
    assert (0.0, history["best"]) == (costs[0], costs.index(min(costs)))
    assert ("random", 3, 5, 0) == tuple(history[key] for key in ("optimizer", "seed", "budget", "failed"))


def test_folders(family: Family) -> None:
    """An evaluator gets a whole checkpoint in a folder, which is gone once it is scored, or kept if that is asked."""
    seen: list[Path] = []

    def evaluate(folder: Path) -> float:
        seen.append(folder)
        others = [path for path in folder.parent.iterdir() if not path.name.startswith(".")]
        assert [folder] == others
        return float(len(read_output(folder)) + (folder / "config.json").stat().st_size)

    search(marked(family), evaluate, family.out, SearchOptions(budget=4))
    assert 4 == len(set(seen)) == sum(not path.exists() for path in seen)
    assert not (family.out / "candidates").exists()
    search(marked(family), lambda folder: 1.0, family.home / "kept", SearchOptions(budget=3, keep=True))
    kept = sorted((family.home / "kept" / "candidates").iterdir())
    assert ["00000", "00001", "00002"] == [path.name for path in kept]
    assert folder_bytes(kept[0]).keys() == folder_bytes(family.home / "kept" / "model").keys()


def test_folders_and_tensors_are_the_same_candidates(family: Family) -> None:
    """A candidate in memory has the bits of the same candidate in a folder; tensors can be those of torch."""
    from_folders: list[dict[str, bytes]] = []
    from_arrays: list[dict[str, bytes]] = []
    search(
        marked(family),
        lambda path: from_folders.append(_bits(read_output(path))) or 1,
        family.out,
        SearchOptions(budget=4),
    )
    search(marked(family), lambda given: from_arrays.append(_bits(given)) or 1, family.home / "b", in_memory(budget=4))
    assert from_folders == from_arrays
    kinds: set[str] = set()
    search(
        marked(family),
        lambda given: kinds.update(type(each).__module__ for each in given.values()) or 1,
        family.home / "c",
        in_memory(budget=1, given="tensors"),
    )
    assert {"torch"} == kinds


def _bits(tensors: dict[str, Any]) -> dict[str, bytes]:
    return {name: each.tobytes() for name, each in sorted(tensors.items())}


def test_several_at_once_change_nothing(family: Family) -> None:
    """Evaluations that overlap, and end in another order, give the history of one after another."""
    weights, lock, most, now = Weights(family), threading.Lock(), 0, 0

    def slow(tensors: dict[str, Any]) -> dict[str, float]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
            delay = 0.02 * (weights.calls * 7 % 4)
            losses = weights.losses(tensors)
        time.sleep(delay)
        with lock:
            now -= 1
        return losses

    search(marked(family), Weights(family).losses, family.home / "one", in_memory(budget=14))
    search(marked(family), slow, family.home / "four", in_memory(budget=14, evaluations=4))
    assert history_of(family.home / "one") == history_of(family.home / "four")
    assert 1 < most <= 4


def test_memory_bounds_evaluations(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many evaluations run at once as candidates fit into the free memory; one that does not fit is refused."""
    heard: list[events.Event] = []
    monkeypatch.setattr(request, "available_bytes", lambda: 400_000)
    search(marked(family), lambda given: 1, family.out, in_memory(budget=2, evaluations=9), listen=heard.append)
    (started,) = (each for each in heard if isinstance(each, events.SearchStarted))
    assert 2 == started.evaluations
    assert "Memory allows 2 evaluations at once" in next(e.text for e in heard if isinstance(e, events.Notice))
    monkeypatch.setattr(request, "available_bytes", lambda: 100)
    with pytest.raises(MemoryLimitError, match="expected candidates that fit into memory"):
        search(marked(family), lambda given: 1, family.home / "b", in_memory(budget=2))


def test_full_disks_are_known_before(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is merged, the disk must have room for all candidates that are there at once, and the result."""
    asked: list[int] = []

    def refuse(folder: Path, needed_bytes: int) -> None:
        asked.append(needed_bytes)
        raise DiskSpaceError("full")

    monkeypatch.setattr(request, "check_disk_space", refuse)
    for number, how in enumerate(
        (SearchOptions(), SearchOptions(evaluations=3), SearchOptions(keep=True), in_memory())
    ):
        with pytest.raises(DiskSpaceError):
            search(marked(family), lambda given: 1, family.home / str(number), how)
    one = asked[3]
    assert [2 * one, 4 * one, 101 * one, one] == asked


class Stop(Exception):
    """Stops a search from within."""


@pytest.mark.parametrize("evaluations", [1, 3])
def test_continues_where_it_was_stopped(family: Family, evaluations: int) -> None:
    """A search that is stopped after every few candidates evaluates none twice, and ends like one that is not."""
    expected = Weights(family)
    search(marked(family), expected.losses, family.home / "whole", in_memory())
    weights, rounds = Weights(family), 0
    while not family.out.exists():
        rounds += 1
        told = 0

        def hear(event: events.Event) -> None:
            nonlocal told
            told += isinstance(event, events.Candidate)
            if told == 4:
                raise Stop

        try:
            search(marked(family), weights.losses, family.out, in_memory(evaluations=evaluations), listen=hear)
        except Stop:
            for thread in threading.enumerate():  # let evaluations that were begun come to their end
                if thread.daemon and thread is not threading.current_thread():
                    thread.join(0.2)
    assert rounds > 2
    assert history_of(family.home / "whole") == history_of(family.out)
    assert folder_bytes(family.home / "whole" / "model") == folder_bytes(family.out / "model")
    if evaluations == 1:
        assert expected.calls == weights.calls


@pytest.mark.parametrize("given", ["folder", "arrays"])
def test_kills(family: Family, given: str) -> None:
    """Killed at any instant, again and again, a search repeats nothing that was scored and ends like any other."""
    from tests.engine.searching.kills import kill_until_done

    outcome = kill_until_done(family, family.home / "kills", kills=3, seed=1, given=given)
    assert outcome.kills >= 3
    assert outcome.expected == outcome.found
    assert [] == outcome.repeated


def test_interrupts(family: Family) -> None:
    """A request to stop ends the search with one line that says what is safe and how to continue."""

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError) as caught:
        search(marked(family), Weights(family).losses, family.out, in_memory(), listen=hear)
    assert f"search interrupted; what 3 candidates of at most 20 gave is safe in {family.staging}" in str(caught.value)
    assert str(caught.value).endswith("run the same command again to continue")


def test_a_larger_budget_goes_on(family: Family) -> None:
    """An unfinished search may get another budget; a finished one is another search."""
    weights = Weights(family)

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate) and event.number == 5:
            raise Stop

    with pytest.raises(Stop):
        search(marked(family), weights.losses, family.out, in_memory(budget=8), listen=hear)
    search(marked(family), weights.losses, family.out, in_memory(budget=12))
    assert 12 == weights.calls
    with pytest.raises(OutputError, match="is not empty and holds another search"):
        search(marked(family), weights.losses, family.out, in_memory(budget=13))


def test_finished_searches(family: Family) -> None:
    """The same search again has nothing to do; another one, or other inputs, are refused unless it may be replaced."""
    weights = Weights(family)
    first = search(marked(family), weights.losses, family.out, in_memory(budget=3))
    heard: list[events.Event] = []
    again = search(marked(family), weights.losses, family.out, in_memory(budget=3), listen=heard.append)
    assert (3, first) == (weights.calls, again)
    assert heard[-1].already  # type: ignore[attr-defined]
    os.utime(family.math / "model.safetensors", (1, 1))
    for how in (in_memory(budget=3), in_memory(budget=3, seed=1)):
        with pytest.raises(OutputError, match="holds another search"):
            search(marked(family), weights.losses, family.out, how)
    search(marked(family), weights.losses, family.out, in_memory(budget=2), run=RunOptions(overwrite=True))
    assert (5, 2) == (weights.calls, len(json.loads(history_of(family.out))["candidates"]))


def test_other_folders_are_spared(family: Family) -> None:
    """An output that holds something else, or that is an input, is refused before anything is read."""
    family.out.mkdir()
    (family.out / "diary").write_text("dear")
    with pytest.raises(OutputError, match="is not empty; expected a new or empty folder, or this very search"):
        search(marked(family), lambda given: 1, family.out, in_memory())
    with pytest.raises(OutputError, match="lies inside the input"):
        search(marked(family), lambda given: 1, family.math / "out", in_memory())
    with pytest.raises(OutputError, match="holds, is or lies inside the input"):
        search(marked(family), lambda given: 1, family.math, in_memory(), run=RunOptions(overwrite=True))


def test_unfinished_merges_are_spared(family: Family) -> None:
    """The working folder of a merge into the same output is no search's, until it may be thrown away."""
    family.staging.mkdir()
    (family.staging / "dovetail_journal").write_bytes(b'{"format": "dovetail-journal"}\n' + bytes(64))
    with pytest.raises(OutputError, match="it holds something else than an unfinished search"):
        search(marked(family), lambda given: 1, family.out, in_memory(budget=1))
    search(marked(family), lambda given: 1, family.out, in_memory(budget=1), run=RunOptions(restart=True))


def test_unfinished_searches_are_spared(family: Family) -> None:
    """Nor is the working folder of a search a merge's."""

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Candidate):
            raise Stop

    with pytest.raises(Stop):
        search(marked(family), lambda given: 1, family.out, in_memory(), listen=hear)
    with pytest.raises(OutputError, match="cannot be continued"):
        merge(family.recipe_path, family.out)


def test_bounds_are_those_of_the_method(family: Family) -> None:
    """A mark whose values the method refuses is an error that names it, before anything is merged."""
    recipe = marked(family, merge_method="cabs", parameters={"n": {"search": [4, 40]}, "m": 16})
    with pytest.raises(RecipeError) as caught:
        search(recipe, lambda given: 1, family.out, in_memory())
    assert "recipe: parameters.n is searched as far as 40, which is refused: n is 40 for model" in str(caught.value)
    assert "expected 0 <= n <= m, and m is 16; correct the bounds" in str(caught.value)
    density = {"weight": 1.0, "density": {"search": [-0.5, 1.0]}}
    with pytest.raises(RecipeError, match=r"parameters\.density is searched as far as -0\.5, which is refused"):
        search(marked(family, merge_method="ties", parameters=density), lambda given: 1, family.out, in_memory())
    assert not family.staging.exists()


def test_starts_that_are_refused(family: Family) -> None:
    """A start of values that do not go together is an error that says what to do."""
    parameters = {"n": {"search": [1, 12], "start": 12}, "m": {"search": [8, 16], "start": 9}}
    with pytest.raises(RecipeError, match=r"the start is refused: n is 12 .*let a mark begin elsewhere"):
        search(marked(family, merge_method="cabs", parameters=parameters), lambda given: 1, family.out, in_memory())


def test_values_that_do_not_go_together(family: Family) -> None:
    """Candidates that the method refuses, though each value alone is right, are failures like others."""
    recipe = marked(
        family, merge_method="cabs", parameters={"n": {"search": [1, 8]}, "m": {"search": [6, 16], "start": 12}}
    )
    found = search(recipe, lambda given: 1, family.out, in_memory(budget=40, optimizer="random"))
    refused = [each for each in found.history["candidates"] if each["failure"]]
    assert all(each["values"]["n"] > each["values"]["m"] for each in refused)
    assert 0 < len(refused) == found.history["failed"]
    assert "it cannot be merged: n is" in refused[0]["failure"]


def test_failures_are_named_and_not_fatal(family: Family) -> None:
    """An evaluator that sometimes raises, or gives nonsense, costs its candidates and nothing else."""
    weights, outcomes = Weights(family), [None, ValueError("two\nlines"), float("nan"), "x", None, SystemExit(3)]

    def evaluate(tensors: dict[str, Any]) -> Any:
        losses = weights.losses(tensors)
        wrong = outcomes[weights.calls - 1] if weights.calls <= len(outcomes) else None
        if isinstance(wrong, BaseException):
            raise wrong
        return losses if wrong is None else wrong

    found = search(marked(family), evaluate, family.out, in_memory(budget=12))
    failures = [each["failure"] for each in found.history["candidates"] if each["failure"]]
    assert [
        "ValueError: two lines",
        "the score is NaN; expected a finite number",
        "it gave 'x'; expected a number, or losses by task",
        "SystemExit: 3",
    ] == failures
    assert 4 == found.history["failed"]


def test_a_first_generation_of_failures_ends_it(family: Family) -> None:
    """If the start and the first generation all fail, the search says why and begins anew the next time."""
    calls = 0

    def evaluate(tensors: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        raise RuntimeError(f"call {calls}")

    with pytest.raises(EvaluationError) as caught:
        search(marked(family), evaluate, family.out, in_memory())
    assert (
        "all of the first 7 candidates failed, the last one because RuntimeError: call 7; expected an evaluator that "
        "gives a number, or losses by task; correct the evaluator and run the same command again"
    ) == str(caught.value)
    assert not family.staging.exists()
    assert 20 == search(marked(family), lambda given: 1.0 * len(given), family.out, in_memory()).evaluated


def test_order_and_sparsity_of_cabs(family: Family) -> None:
    """The order of pruning and n of a fixed m are searched like weights, and exactly those are found."""
    recipe = marked(
        family,
        merge_method="cabs",
        parameters={"n": {"search": [2, 6]}, "m": 8, "pruning_order": {"search": "order"}},
        models=[{"model": str(family.math)}, {"model": str(family.code)}],
    )
    recipe["parameters"]["weight"] = 1.0
    wanted = marked(family, **{key: recipe[key] for key in ("merge_method", "models")})
    wanted["parameters"] = {"n": 5, "m": 8, "weight": 1.0, "pruning_order": [str(family.code), str(family.math)]}
    merge(wanted, family.home / "wanted")
    target = read_output(family.home / "wanted")

    def evaluate(tensors: dict[str, Any]) -> float:
        return -sum(float(np.abs(tensors[name] - target[name]).sum()) for name in target)

    found = search(recipe, evaluate, family.out, in_memory(optimizer="grid", budget=11))
    assert {"n": 5, "pruning_order": [str(family.code), str(family.math)]} == found.values
    assert (0.0, 10) == (found.result, found.evaluated)  # the start is a point of the grid
    assert folder_bytes(found.model)["model.safetensors"] == folder_bytes(family.home / "wanted")["model.safetensors"]


def test_groups_of_layers(family: Family) -> None:
    """Values by filter and points of gradients are searched, and reach the tensors that they are for."""
    recipe = marked(family)
    recipe["models"][0]["parameters"]["weight"] = [
        {"filter": "mlp", "value": {"search": [0.0, 1.0]}},
        {"value": [{"search": [0.0, 1.0]}, 0.25]},
    ]
    recipe["models"][1]["parameters"]["weight"] = 0.0
    found = search(recipe, lambda given: 1, family.out, in_memory(budget=1, start="equal"))
    assert {"weight[math] mlp": 0.5, "weight[math] 0": 0.5} == found.values
    base, math, merged = (read_output(path) for path in (family.base, family.math, found.model))
    for layer, name, weight in ((0, "mlp.up_proj", 0.5), (0, "self_attn.q_proj", 0.5), (1, "self_attn.q_proj", 0.25)):
        key = f"model.layers.{layer}.{name}.weight"
        expected = base[key].astype(float) + weight * (math[key].astype(float) - base[key].astype(float))
        assert np.allclose(expected, merged[key], atol=1e-6)


def test_starting_points(family: Family) -> None:
    """Weights start at 1, at 1/K, or in inverse proportion to the norms of the task vectors; bounds hold."""
    weights = Weights(family)
    norms = np.linalg.norm(weights.changes, axis=0)
    expected = {"ones": [1.0, 1.0], "equal": [0.5, 0.5], "nan": list((1 / norms) / (1 / norms).sum())}
    for start, values in expected.items():
        found = search(marked(family), lambda given: 1, family.home / start, in_memory(budget=1, start=start))
        assert np.allclose(values, list(found.values.values()), rtol=1e-5)
    narrow = marked(family, models=[{"model": str(family.math), "parameters": {"weight": {"search": [0.1, 0.3]}}}])
    assert {"weight[math]": 0.3} == search(narrow, lambda given: 1, family.out, in_memory(budget=1)).values


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"merge_method": "linear", "base_model": None}, "has no task vectors of whole models"),
        (
            {"parameters": {"weight": {"search": [0, 1]}}, "models": "plain"},
            "searches weight for several models at once",
        ),
        ({"models": "same"}, "which is equal to the base model"),
    ],
)
def test_starts_that_make_no_sense(family: Family, changes: dict[str, Any], text: str) -> None:
    """NAN needs the norms of task vectors, and a weight for each."""
    recipe = marked(family) | {key: value for key, value in changes.items() if key != "models"}
    if changes.get("models") == "plain":
        recipe["models"] = [{"model": str(family.math)}, {"model": str(family.code)}]
    elif "models" in changes:
        recipe["models"][0]["model"] = str(_copy(family.base, family.home / "twin"))
    with pytest.raises(RecipeError, match=f"the start is nan, and the recipe .*{text}"):
        search({k: v for k, v in recipe.items() if v}, lambda given: 1, family.out, in_memory(start="nan"))


def _copy(source: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(source, target))


@pytest.mark.parametrize("given", ["folder", "arrays"])
def test_candidates_from_a_store(family: Family, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Where only weights are searched, candidates are merged from what models keep, and have the same bits."""
    recipe = marked(family, merge_method="cabs", parameters={"n": 4, "m": 16})
    monkeypatch.setattr(candidates, "reads_from_disk", lambda _: True)
    seen: dict[str, list[dict[str, bytes]]] = {"store": [], "models": []}
    for name, bits in seen.items():
        if name == "models":
            monkeypatch.setattr(Maker, "store_vectors", lambda *_: None)

        def evaluate(subject: Any, bits: list[dict[str, bytes]] = bits) -> float:
            bits.append(_bits(read_output(subject) if given == "folder" else subject))
            return float((family.home / ".store.dovetail-partial" / "vectors").exists()) if not bits[1:] else 1.0

        found = search(recipe, evaluate, family.home / name, SearchOptions(budget=5, given=given))
        assert float(name == "store") == found.history["candidates"][0]["result"]
        assert {"recipe.yml", "model", "history.json"} == {path.name for path in (family.home / name).iterdir()}
    assert seen["store"] == seen["models"]


def test_what_decides_the_masks_needs_the_models(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a mark decides what models keep, or a method keeps everything, there is no store; nor of small models."""
    small = family.home / ".small.dovetail-partial"
    recipe = marked(family, merge_method="cabs", parameters={"n": 4, "m": 16})
    search(recipe, lambda _: float((small / "vectors").exists()), family.home / "small", in_memory(budget=1))
    assert '"result": 0.0' in (family.home / "small" / "history.json").read_text()
    monkeypatch.setattr(candidates, "reads_from_disk", lambda _: True)
    parameters = {"n": {"search": [1, 8]}, "m": 16}
    for number, recipe in enumerate((marked(family, merge_method="cabs", parameters=parameters), marked(family))):
        staging = family.home / f".{number}.dovetail-partial"
        search(
            recipe,
            lambda _, at=staging: float((at / "vectors").exists()),
            family.home / str(number),
            in_memory(budget=1),
        )
        assert '"result": 0.0' in (family.home / str(number) / "history.json").read_text()


def test_recipes_of_several_documents(family: Family) -> None:
    """Marks may stand in any stage; candidates are merged stage by stage, and so is the best."""
    text = (
        f"name: mean\nmerge_method: linear\nmodels:\n  - model: {family.math}\n    parameters: {{weight: 1}}\n"
        f"  - model: {family.code}\n    parameters: {{weight: {{search: [0.5, 2.0]}}}}\n"
        f"---\nmerge_method: task_arithmetic\nbase_model: {family.base}\n"
        "models: [{model: mean, parameters: {weight: {search: [0, 1]}}}]\n"
    )
    seen: list[int] = []
    found = search(
        text, lambda folder: seen.append(len(read_output(folder))) or len(seen), family.out, SearchOptions(budget=3)
    )
    assert ["weight[code]", "weight[mean]"] == list(found.values)
    assert 3 == len(seen)
    merge(found.recipe, family.home / "again")
    assert folder_bytes(found.model)["model.safetensors"] == folder_bytes(family.home / "again")["model.safetensors"]
    for how in (in_memory(), SearchOptions(start="nan")):
        with pytest.raises(RecipeError, match="the recipe has 2 documents"):
            search(text, lambda given: 1, family.home / "b", how)


@pytest.mark.parametrize(
    ("evaluate", "how", "text"),
    [
        ("cmd", in_memory(), "given is arrays for a command; expected folder"),
        (len, in_memory(timeout_s=1.0), "timeout_s is given for a function; expected a command"),
        (" ", SearchOptions(), "the evaluator's command is empty"),
    ],
)
def test_options_that_do_not_go_together(family: Family, evaluate: Any, how: SearchOptions, text: str) -> None:
    """What would have no effect is refused."""
    with pytest.raises(RecipeError, match=text):
        search(marked(family), evaluate, family.out, how)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"budget": 0}, "budget is 0; expected a whole number from 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of cma, grid, random, quadratic"),
        ({"objective": "f1"}, "objective is 'f1'; expected one of awa, score, loss"),
        ({"start": "zero"}, "start is 'zero'; expected one of ones, equal, nan"),
        ({"given": "model"}, "given is 'model'; expected one of folder, tensors, arrays"),
        ({"timeout_s": 0}, "timeout_s is 0; expected seconds above 0"),
        ({"evaluations": 1.5}, "evaluations is 1.5; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
    ],
)
def test_wrong_options(option: dict[str, Any], text: str) -> None:
    """An option that cannot be used is named with what could be."""
    with pytest.raises(RecipeError, match=text):
        SearchOptions(**option)

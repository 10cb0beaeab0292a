"""Whole searches: what they find, what they leave, and that they go the same way whatever happens."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import events, merge, verify
from dovetail.engine.errors import (
    DiskSpaceError,
    EvaluationError,
    MemoryLimitError,
    RecipeError,
)
from dovetail.engine.searching import candidates, request
from dovetail.engine.searching.candidates import Maker
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.search import search
from dovetail.io.opening import read_checkpoint
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


@pytest.mark.parametrize("given", ["folder", "arrays"])
def test_candidates_from_a_store(family: Family, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Where only weights are searched, candidates are merged from what models keep, and have the same bits."""
    recipe = marked(family, merge_method="cabs", parameters={"n": 4, "m": 16})
    monkeypatch.setattr(candidates, "must_read_again", lambda _: True)
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
    monkeypatch.setattr(candidates, "must_read_again", lambda _: True)
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


@pytest.mark.parametrize(("remote", "room", "expected"), [(True, 10**9, True), (False, 10**9, False), (False, 1, True)])
def test_what_every_candidate_reads_anew(
    family: Family, monkeypatch: pytest.MonkeyPatch, remote: bool, room: int, expected: bool
) -> None:
    """Models at an address, and models larger than the free memory, are read anew for each candidate."""
    found = read_checkpoint(family.base)
    found = replace(found, path="https://example.org/base") if remote else found
    monkeypatch.setattr(candidates, "available_bytes", lambda: room)
    assert expected == candidates.must_read_again([found])

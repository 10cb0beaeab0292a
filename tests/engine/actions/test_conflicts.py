"""Who overrode whom: counts as plain Python finds them, whatever the chunks and workers, and the page of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import events, merge, read_manifest
from dovetail.engine.actions.conflicts import Conflicts, conflicts
from dovetail.engine.cli.report.page.kinds import page_of
from dovetail.engine.cli.report.page.render import render
from dovetail.engine.errors import VerificationError
from dovetail.engine.run.prepare import RunOptions
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.cli.report.pages import parse
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.naive import cabs_masks

RUN = RunOptions(workers=2)


def taus_of(folders: Sequence[Path]) -> dict[str, list[NDArray[np.float32]]]:
    """Give the flattened task vectors of every tensor; the first folder is the base model."""
    from safetensors import safe_open

    found: dict[str, list[NDArray[np.float32]]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118, the library's object is no dict
                    found.setdefault(name, []).append(file.get_tensor(name).astype(np.float32).ravel())
    return {name: [each - arrays[0] for each in arrays[1:]] for name, arrays in found.items()}


def compared(found: Conflicts, name: str, wanted: Sequence[Any], wins: Sequence[Any], taus: Sequence[Any]) -> None:
    """Compare what was found in a tensor with marks of what models want, and of what counts."""
    row = found.tensors.index(name)
    for i, (wants, tau) in enumerate(zip(wanted, taus, strict=True)):
        square = tau.astype(np.float64) ** 2
        assert int(wants.sum()) == found.wanted[row, i]
        assert square[wants].sum() == pytest.approx(found.wanted_square[row, i])
        loses = wants & ~wins[i]
        for j in range(len(taus)):
            here = loses if i == j else loses & wins[j]
            assert int(here.sum()) == found.lost[row, i, j], (name, i, j)
            assert square[here].sum() == pytest.approx(found.lost_square[row, i, j])


@pytest.mark.parametrize("changes", [{}, {"overlap": "minimize"}, {"pruning_order": True}], ids=str)
def test_exclusion(family: Family, changes: dict[str, Any]) -> None:
    """By CABS, a model loses the places that it would keep alone and that others keep."""
    third = write_checkpoint(family.home / "third", llama_tensors(3, llama_tensors(0)))
    folders = [family.math, family.code, third]
    order = [0, 1, 2]
    if changes.pop("pruning_order", False):
        changes, order = {"pruning_order": [str(folders[place]) for place in (2, 0, 1)]}, [2, 0, 1]
    parameters = {"n": 4, "m": 16, "weight": 0.8, **changes}
    merge(family.recipe(models=[{"model": str(each)} for each in folders], parameters=parameters), family.out)
    found = conflicts(family.out, RUN)
    everything = taus_of([family.base, *folders])
    assert set(everything) == set(found.tensors)
    assert 0 == found.left_out
    for name, taus in everything.items():
        alone = [cabs_masks([tau], [4], [16])[0] for tau in taus]
        ordered = cabs_masks([taus[place] for place in order], [4] * 3, [16] * 3, changes.get("overlap", "forbid"))
        kept = [ordered[order.index(place)] for place in range(3)]
        compared(found, name, alone, kept, taus)
    assert 0 == found.lost[:, order[0]].sum()
    assert found.lost[:, order[2]].sum() > 0


@pytest.mark.parametrize(("density", "rescale"), [(1.0, False), (0.5, False), (0.3, True)])
def test_elections(family: Family, density: float, rescale: bool) -> None:
    """By TIES, a model loses the changes whose sign is not that of the sum, to those that have it."""
    weights = (0.9, -0.4)
    models = [
        {"model": str(each), "parameters": {"weight": weight}}
        for each, weight in zip((family.math, family.code), weights, strict=True)
    ]
    parameters = {"density": density, "rescale": rescale}
    merge(family.recipe(merge_method="ties", models=models, parameters=parameters), family.out)
    found = conflicts(family.out, RUN)
    for name, taus in taus_of([family.base, family.math, family.code]).items():
        masks, votes = [], []
        for tau, weight in zip(taus, weights, strict=True):
            count = int(density * tau.size)
            mask = np.zeros(tau.size, np.bool_)
            mask[np.argsort(-np.abs(tau), kind="stable")[:count]] = True
            mask &= tau != 0
            scale = np.abs(tau).sum(dtype=np.float64) / np.abs(tau[mask]).sum(dtype=np.float64) if rescale else 1.0
            masks.append(mask)
            votes.append(np.where(mask, np.float32(weight) * (np.float32(scale) * tau), np.float32(0)))
        positive = votes[0] + votes[1] >= 0
        wins = [np.where(positive, vote > 0, vote < 0) for vote in votes]
        compared(found, name, masks, wins, taus)
    assert found.lost[:, 0, 0].sum() > 0
    assert found.lost[:, 1, 1].sum() > 0


def test_chunks_and_workers(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts depend neither on how tensors are cut nor on the number of workers."""
    for method, parameters in (
        ("ties", {"density": 0.4, "weight": 0.5}),
        ("della", {"density": 0.4, "weight": 0.5, "epsilon": 0.1}),
        ("dare_ties", {"density": 0.4, "weight": 0.5}),
        ("cabs", {"n": 4, "m": 16, "weight": 0.8}),
    ):
        with monkeypatch.context() as patch:
            output = family.home / method
            merge(family.recipe(merge_method=method, parameters=parameters), output)
            whole = conflicts(output, RunOptions(workers=1))
            commit_often(patch)
            heard: list[events.Event] = []
            cut = conflicts(output, RUN, heard.append)
        last = [event for event in heard if isinstance(event, events.Progress)][-1]
        assert last.done_bytes == last.total_bytes
        assert whole.tensors == cut.tensors
        assert whole.wanted.tolist() == cut.wanted.tolist()
        assert whole.lost.tolist() == cut.lost.tolist()
        assert whole.lost_square.ravel() == pytest.approx(cut.lost_square.ravel())
        assert whole.lost.sum() > 0


def test_the_page(family: Family) -> None:
    """The page has what each model lost, to whom, and in every tensor."""
    merge(family.recipe_path, family.out)
    target = family.home / "page.html"
    outcome = dovetail("report", family.out, "--conflicts", "--html", target, "--json")
    assert 0 == outcome.code, outcome.err
    found, page = conflicts(family.out, RUN), parse(target.read_text())
    lost = found.lost.sum(axis=0)
    assert [int(lost[0, 0]), int(lost[1, 1])] == page.column("What every model lost", "lost")
    assert [int(lost[0, 1]), int(lost[1, 0])] == page.column("Who overrode whom", "changes")
    shares = found.lost[:, 1, 1] / found.wanted[:, 1]
    assert shares.tolist() == pytest.approx(page.column("Changes lost, in every tensor", "code: lost"), rel=1e-5)
    assert list(found.tensors) == page.column("Changes lost, in every tensor", "tensor")
    measures = [each["name"] for each in page.part("Changes lost, by layer and kind of tensor")["measures"]]
    assert ["math: share lost", "code: share lost"] == measures[:2]
    assert "Conflicts" not in parse(render(page_of(family.out))).text


def test_where_nothing_is_said(family: Family) -> None:
    """Methods that override nothing, two outputs, and inputs that are gone are errors of one line."""
    merge(family.recipe(merge_method="task_arithmetic", parameters={"weight": 1.0}), family.out)
    target = family.home / "page.html"
    outcome = dovetail("report", family.out, "--conflicts", "--html", target)
    assert (5, 1) == (outcome.code, outcome.err.count("\n"))
    assert "by task_arithmetic, as the recipe of" in outcome.err
    outcome = dovetail("report", family.out, family.out, "--conflicts", "--html", target)
    assert (2, 1) == (outcome.code, outcome.err.count("\n"))
    outcome = dovetail("report", family.out, "--memory", "1GiB", "--html", target)
    assert (2, 1) == (outcome.code, outcome.err.count("\n"))
    merge(family.recipe(), family.home / "other")
    shutil.rmtree(family.code)
    outcome = dovetail("report", family.home / "other", "--conflicts", "--html", target)
    assert (3, 1) == (outcome.code, outcome.err.count("\n"))
    assert not target.exists()


@pytest.mark.parametrize("parameters", [{"balanced": False}, {"granularity": "kernel"}], ids=str)
@pytest.mark.parametrize("consensus", ["sum", "ties"])
def test_what_cannot_be_told(family: Family, parameters: dict[str, Any], consensus: str) -> None:
    """Where models exclude each other otherwise than by blocks, nothing is said, whatever comes after."""
    merge(family.recipe(parameters={"n": 4, "m": 16, "weight": 0.8, "consensus": consensus, **parameters}), family.out)
    if "balanced" in parameters:
        with pytest.raises(VerificationError, match=r"as the recipe of .* uses it, no model overrides another"):
            conflicts(family.out, RUN)
        return
    found = conflicts(family.out, RUN)
    # Of a kernel's tensors, those of one dimension are pruned by elements, and are told.
    assert all("norm" in name for name in found.tensors)
    assert found.left_out > 0


def test_a_model_named_twice_is_no_rival_of_itself(family: Family) -> None:
    """What a model loses to its twin is lost, and to no other model; it cannot lose more than it wants."""
    models = [{"model": str(family.math), "parameters": {"weight": 1}}] * 2
    merge(family.recipe(models=models, parameters={"n": 4, "m": 16}), family.out)
    found = conflicts(family.out, RUN)
    assert 0 < found.lost.sum() <= found.wanted.sum()
    manifest = read_manifest(family.out)
    table = manifest.table()
    for key in ("task_vector_norm", "kept_norm"):
        joint = np.sqrt((np.nan_to_num(table[key][:, 0]) ** 2).sum())
        assert manifest["totals"][key][0] == pytest.approx(joint)

"""Analysing models before a merge: figures by tensor, layer and kind, whatever the chunks, workers and limits."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dovetail.engine import events
from dovetail.engine.actions.analysis import Analysis
from dovetail.engine.actions.analyze import analyze
from dovetail.engine.errors import MemoryLimitError, RecipeError
from dovetail.engine.methods.measured import SHARES
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run import prepare
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import NonFiniteError
from tests.checkpoints import BF16, Tensors, llama_tensors, read_output, write_checkpoint, write_recipe
from tests.engine.conftest import Family
from tests.naive_analysis import naive_facts


def run(home: Path, base: Tensors, *models: Tensors, **options: object) -> Analysis:
    """Write a base model and fine-tunes, and analyse them."""
    write_checkpoint(home / "base", base)
    names = [str(write_checkpoint(home / f"model{place}", each)) for place, each in enumerate(models)]
    return analyze(names, str(home / "base"), **options)  # type: ignore[arg-type]


def test_every_tensor_is_that_of_the_oracle(family: Family) -> None:
    """Figures of each tensor follow from the oracle's counts and sums, by the definitions in their docstrings."""
    found = analyze(family.recipe_path, n=4, m=16)
    base, math, code = (read_output(folder) for folder in (family.base, family.math, family.code))
    assert list(base) == [each.name for each in found.tensors] or set(base) == {each.name for each in found.tensors}
    for name, values in base.items():
        facts, figures = naive_facts(values, [math[name], code[name]], SHARES, 4, 16), found.of_tensor(name)
        for place, each in enumerate(figures.models):
            square = facts.products[place, place]
            assert values.size == each.elements
            assert facts.zeros[place] / values.size == each.unchanged
            np.testing.assert_allclose(
                [each.norm, each.relative_norm, each.base_cosine, *each.strongest, *each.energy],
                [
                    np.sqrt(square),
                    np.sqrt(square / facts.base_square),
                    facts.base_product[place] / np.sqrt(square * facts.base_square),
                    *(facts.strongest[place] / square),
                    *(facts.kept_square[place] / square),
                ],
                rtol=1e-9,
                atol=1e-12,
            )
            assert tuple(facts.kept[place] / values.size) == each.density
        (pair,) = figures.pairs
        product, opposed = facts.products[0, 1], facts.opposed[0, 1]
        assert facts.differing[0, 1] == pair.differing
        assert facts.opposite[0, 1] / facts.both[0, 1] == pair.sign_conflict
        assert facts.common[0, 1] / (facts.kept[:, 0].sum() - facts.common[0, 1]) == pair.overlap
        np.testing.assert_allclose(
            [pair.cosine, pair.weighted_conflict, pair.distance],
            [
                product / np.sqrt(facts.products[0, 0] * facts.products[1, 1]),
                opposed / (product + 2 * opposed),
                np.sqrt((np.trace(facts.products) - 2 * product) / min(np.diag(facts.products))),
            ],
            rtol=1e-9,
            atol=1e-12,
        )


def test_layers_and_kinds_add_up(family: Family) -> None:
    """Those of several tensors together are the figures of all their elements as one."""
    found = analyze(family.recipe_path)
    assert ["0", "1", "outside"] == list(found.layers)
    assert "self_attn.q_proj.weight" in found.kinds
    squares = [each.models[0].norm ** 2 for each in found.layers.values()]
    assert pytest.approx(found.total.models[0].norm ** 2) == sum(squares)
    squares = [each.models[1].norm ** 2 for each in found.kinds.values()]
    assert pytest.approx(found.total.models[1].norm ** 2) == sum(squares)
    base, math = read_output(family.base), read_output(family.math)
    names = [name for name in base if ".layers.1." in name]
    taus = np.concatenate([(math[name].astype(np.float64) - base[name].astype(np.float64)).ravel() for name in names])
    assert pytest.approx(np.linalg.norm(taus)) == found.layers["1"].models[0].norm
    assert np.mean(taus == 0) == found.layers["1"].models[0].unchanged


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float32)], ids=str)
def test_workers_and_limits_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: np.dtype) -> None:
    """With many chunks, one worker and four find the same bits, of float32 models in two passes too."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 512)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    monkeypatch.setattr(grid, "LEAST_TASK_BYTES", 1)
    base = llama_tensors(0, dtype=dtype)
    tuned = [llama_tensors(seed, base) for seed in (1, 2)]
    one = run(tmp_path, base, *tuned, run=RunOptions(workers=1), m=256)
    seen: list[events.Progress] = []
    several = analyze(
        one.models,
        one.base,
        run=RunOptions(workers=4, memory="2GiB"),
        listen=lambda event: seen.append(event) if isinstance(event, events.Progress) else None,
        m=256,
    )
    assert one.records.tobytes() == several.records.tobytes()
    assert one.read_bytes == several.read_bytes
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (several.read_bytes, several.read_bytes)
    total = sum(tensor.nbytes for tensors in (base, *tuned) for tensor in tensors.values())
    assert (one.read_bytes > total) == (dtype != BF16)  # only where cuts are open, tensors are read again


def test_chunks_change_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another grid of chunks gives the same counts, and the same sums to rounding."""
    base = llama_tensors(0, dtype=np.dtype(np.float16))
    whole = run(tmp_path, base, llama_tensors(1, base), llama_tensors(2, base), n=12, m=48)
    monkeypatch.setattr(grid, "CHUNK_STEP", 100)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    cut = analyze(whole.models, whole.base, n=12, m=48)
    for name in whole.records.dtype.names or ():
        if whole.records[name].dtype.kind == "i":
            np.testing.assert_array_equal(whole.records[name], cut.records[name])
        else:
            np.testing.assert_allclose(whole.records[name], cut.records[name], 1e-9, 1e-12)


def test_tensors_that_some_models_lack(tmp_path: Path) -> None:
    """A tensor counts for the models that have it in the base model's shape, and pairs where both have it."""
    base = llama_tensors(0)
    less, more = llama_tensors(1, base), llama_tensors(2, base)
    del less["model.norm.weight"]
    more["extra"] = np.ones(3, BF16)
    found = run(tmp_path, base, less, more)
    norm = found.of_tensor("model.norm.weight")
    assert [0, 64] == [each.elements for each in norm.models]
    assert 0 == norm.pairs[0].elements
    assert np.isnan(norm.pairs[0].cosine)
    assert "extra" not in {each.name for each in found.tensors}
    assert any("missing in" in note for note in found.notes)
    assert any("lacks them" in note for note in found.notes)


def test_integers_are_compared_and_not_measured(tmp_path: Path) -> None:
    """A tensor that no method merges is no part of figures, and a model that has other values is named."""
    base = {**llama_tensors(0), "ids": np.arange(9)}
    other = {**llama_tensors(1, llama_tensors(0)), "ids": np.arange(1, 10)}
    found = run(tmp_path, base, {**llama_tensors(2, llama_tensors(0)), "ids": np.arange(9)}, other)
    (ids,) = [each for each in found.tensors if each.name == "ids"]
    assert (True, False) == ids.same
    assert ["unmerged"] == [each.kind for each in found.cautions]
    assert sum(base[name].size for name in base if name != "ids") == found.total.models[0].elements


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    """They are an error that names the first, or count as unchanged and are counted, whatever has them."""
    base = llama_tensors(0)
    tuned = llama_tensors(1, base)
    tuned["lm_head.weight"].reshape(-1)[7] = np.nan
    with pytest.raises(NonFiniteError, match=r"lm_head.weight.* holds nan at element 7; .*--nonfinite keep"):
        run(tmp_path, base, tuned, tuned)
    found = analyze([str(tmp_path / "model0")], str(tmp_path / "base"), PlanOptions(keep_nonfinite=True))
    assert 1 == found.total.models[0].nonfinite
    assert ["nonfinite"] == [each.kind for each in found.cautions]


def test_slices_are_compared_with_the_layers_that_they_are_merged_with(family: Family) -> None:
    """In a recipe of slices, a layer is compared with the base model's layer beside it."""
    sources = [{"model": str(family.base), "layer_range": [0, 1]}, {"model": str(family.math), "layer_range": [1, 2]}]
    recipe = {"merge_method": "slerp", "base_model": str(family.base), "slices": [{"sources": sources}]}
    found = analyze(write_recipe(family.recipe_path, parameters={"t": 0.5}, **recipe))
    base, math = read_output(family.base), read_output(family.math)
    tau = math["model.layers.1.mlp.up_proj.weight"].astype(float) - base["model.layers.0.mlp.up_proj.weight"].astype(
        float
    )
    (figures,) = found.of_tensor("model.layers.0.mlp.up_proj.weight").models
    assert pytest.approx(np.linalg.norm(tau), rel=1e-6) == figures.norm


def test_a_recipe_needs_a_base_model(family: Family) -> None:
    """A recipe without one is told how to give it; given one, the method and its parameters do not matter."""
    models = [{"model": str(each), "parameters": {"weight": 0.5}} for each in (family.math, family.code)]
    recipe = write_recipe(family.home / "linear.yml", merge_method="linear", models=models)
    with pytest.raises(RecipeError, match=r"names no base_model.*pass --base"):
        analyze(recipe)
    found = analyze(recipe, str(family.base))
    assert found.records.tobytes() == analyze(family.recipe_path).records.tobytes()
    with pytest.raises(RecipeError, match="no model besides the base model"):
        analyze([str(family.base)], str(family.base))


def test_several_documents_are_refused(family: Family) -> None:
    """Of a recipe with stages it is not said which one is meant."""
    text = f"{family.recipe_path.read_text()}name: first\n---\n{family.recipe_path.read_text()}"
    with pytest.raises(RecipeError, match="has 2 documents; expected one"):
        analyze(text)


def test_adapters_are_applied(family: Family) -> None:
    """A model with an adapter is analysed as the model that both make; what the adapter leaves is unchanged."""
    from tests.adapters import lora_tensors, write_adapter

    name = "model.layers.0.self_attn.q_proj"
    tensors = lora_tensors(0, read_output(family.base), [name])
    adapter = write_adapter(family.home / "adapter", tensors)
    found = analyze([f"{family.base}+{adapter}"], str(family.base))
    assert found.of_tensor(f"{name}.weight").models[0].norm > 0
    changed = [each.name for each in found.tensors if found.of_tensor(each.name).models[0].unchanged < 1]
    assert [f"{name}.weight"] == changed


def test_json_holds_everything(family: Family) -> None:
    """What an analysis writes is strict JSON, in which nothing stands for NaN."""
    found = analyze(family.recipe_path)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert ("dovetail analysis", 1) == (document["format"], document["version"])
    assert found.total.models[0].norm == document["total"]["models"][0]["norm"]
    assert [each.name for each in found.tensors] == [each["name"] for each in document["tensors"]]
    assert document["tensors"][0]["pairs"][0]["cosine"] == found.of_tensor(found.tensors[0].name).pairs[0].cosine


def test_limits_that_are_too_small_are_refused(family: Family) -> None:
    """The error names the limit that would do."""
    with pytest.raises(MemoryLimitError, match="pass --memory"):
        analyze(family.recipe_path, run=RunOptions(memory="20MiB"))


def test_it_can_be_stopped(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, here from whoever listens, ends the work at once, with no thread left."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 64)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    before = threading.active_count()

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(family.recipe_path, listen=stop, n=4, m=16)
    assert before == threading.active_count()


def test_little_memory_opens_one_tensor_at_a_time(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the limit has no room for the sums of several tensors, one is measured after another, to the same bits."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 512)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)
    roomy = analyze(family.recipe_path, run=RunOptions(workers=1))
    less = RunOptions(workers=1, memory_bytes=roomy.budget.projected_bytes - 1)
    tight = analyze(family.recipe_path, run=less)
    assert (4, 1) == (roomy.budget.open_jobs, tight.budget.open_jobs)
    assert roomy.records.tobytes() == tight.records.tobytes()


def test_it_is_shown_in_a_few_lines(family: Family) -> None:
    """An analysis says in Python what it found."""
    found = replace(analyze(family.recipe_path), seconds=1.0)
    assert "models          math, code" in repr(found)
    assert "<table>" in found._repr_html_()

"""A merge from a store of task vectors has the bits of the merge from the models, whatever weights it has."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.vectors import make_vectors
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.output import ZarrFormat
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.crash import tree_bytes
from tests.engine.awkward import DTYPES, base_tensors, tuned_tensors, write_family
from tests.engine.conftest import Family
from tests.engine.interrupt import Interrupter, commit_often
from tests.engine.kernels.cases import examples
from tests.engine.vectors import PRUNINGS, Pruning, assert_same_model, merged, store, written

_FLOATS = st.sampled_from(["float32", "bfloat16", "float16", "float64", "float8_e4m3fn"])
_WEIGHTS = st.lists(st.sampled_from([0.0, 1.0, -0.5, 0.37, [0.1, 1.5]]), min_size=2, max_size=2)


def _cut(step: int) -> Any:
    """Cut tensors into chunks of so many elements."""
    return patch.multiple(grid, CHUNK_STEP=step, TASK_BYTES=1)


@pytest.mark.parametrize("name", PRUNINGS)
def test_the_bits_are_those_of_the_models(tmp_path: Path, name: str) -> None:
    """Every method, with other weights and other free parameters than the store was made with, in chunks."""
    pruning = PRUNINGS[name]
    base = base_tensors("bfloat16")
    folder, folders = write_family(tmp_path, base, [tuned_tensors(base, seed, "bfloat16") for seed in range(2)])
    with _cut(300):
        store(written(tmp_path / "s.yml", pruning, folder, folders, [1.0, 1.0]), tmp_path / "store")
    assert () == verify(tmp_path / "store").damage
    values = max(map(len, pruning.free.values()), default=1)
    for number in range(values):
        free = {key: choices[number % len(choices)] for key, choices in pruning.free.items()}
        changes = {"parameters": free, "dtype": "float32"}
        models = written(tmp_path / "m.yml", pruning, folder, folders, [0.7, -1.3], **changes)
        vectors = written(
            tmp_path / "v.yml", pruning, folder, folders, [0.7, -1.3], **changes, vectors=str(tmp_path / "store")
        )
        with _cut(300):
            expected = merged(models, tmp_path / f"models{number}")
        assert_same_model(expected, merged(vectors, tmp_path / f"vectors{number}"))


@settings(max_examples=examples(3))
@given(
    name=st.sampled_from(sorted(PRUNINGS)),
    dtypes=st.tuples(_FLOATS, _FLOATS, _FLOATS, _FLOATS),
    steps=st.tuples(*[st.sampled_from([99, 128, 333, 1 << 16])] * 3),
    workers=st.integers(1, 3),
    weights=_WEIGHTS,
    zarr=st.booleans(),
    codec=st.sampled_from(["zstd", "blosc", "none"]),
    seed=st.integers(0, 3),
)
@example("dare_ties", ("float64",) * 4, (77, 100, 64), 3, [0.37, -0.5], True, "none", 3)
@example("della", ("float32", "bfloat16", "float16", "float64"), (64, 333, 99), 2, [1.0, [0.1, 1.5]], False, "blosc", 1)
def test_nothing_but_the_recipe_decides_a_bit(
    name: str,
    dtypes: tuple[str, str, str, str],
    steps: tuple[int, int, int],
    workers: int,
    weights: list[Any],
    zarr: bool,
    codec: str,
    seed: int,
) -> None:
    """Neither dtypes nor the cuts of the store and of both merges, neither workers nor formats make a difference.

    The models lack one tensor that the base model has, one of them lacks another, and one has more rows of tokens.
    Objects of Zarr are cut by the plan of the merge, so that both merges are cut alike there.
    """
    pruning, output_format = PRUNINGS[name], ZarrFormat() if zarr else PlanOptions().format
    base = base_tensors(dtypes[0])
    models = [tuned_tensors(base, number, dtype) for number, dtype in enumerate(dtypes[1:3])]
    for model in models:
        del model["model.layers.1.mlp.experts.weight"]
    del models[0]["model.norm.weight"]
    more = models[1]["model.embed_tokens.weight"]
    models[1]["model.embed_tokens.weight"] = np.concatenate([more, more[:3]])
    for number, tensors in enumerate((base, *models)):
        tensors["model.layers.0.mask"] = np.arange(9) + number
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        folder, folders = write_family(home, base, models)
        with _cut(steps[0]):
            recipe = written(home / "s.yml", pruning, folder, folders, [1.0, 1.0])
            make_vectors(recipe, home / "store", PlanOptions(seed=seed), RunOptions(workers=workers), codec=codec)
        both = []
        for kind, step in (("models", steps[1]), ("vectors", steps[1 if zarr else 2])):
            keys: dict[str, Any] = {"dtype": dtypes[3]} | (
                {"vectors": str(home / "store")} if kind == "vectors" else {}
            )
            recipe = written(home / f"{kind}.yml", pruning, folder, folders, weights, **keys)
            with _cut(step):
                both.append(merged(recipe, home / kind, workers=workers, format=output_format, seed=seed))
        assert_same_model(*both)
        assert {**read_manifest(both[0])["totals"], **_ours(both[0])} == {
            **read_manifest(both[1])["totals"],
            **_ours(both[1]),
        }


def _ours(output: Path) -> dict[str, Any]:
    """Leave out of totals what a store cannot say: norms before pruning and whether copies differed; and roundings."""
    totals = read_manifest(output)["totals"]
    return {
        "task_vector_norm": None,
        "copied_differing": None,
        "kept_norm": [f"{norm:.4g}" for norm in totals["kept_norm"]],
        "merged_norm": f"{totals['merged_norm']:.4g}",
    }


def test_the_models_are_not_needed(family: Family) -> None:
    """Once the store is made, the models may be gone, and the base model and the store may lie elsewhere."""
    recipe = family.recipe()
    expected = merged(recipe, family.home / "expected")
    store(recipe, family.home / "store")
    for folder in (family.math, family.code):
        folder.rename(folder.with_name(f"{folder.name} is gone"))
    family.base.rename(family.home / "moved")
    (family.home / "store").rename(family.home / "shared")
    moved = family.recipe(base_model=str(family.home / "moved"), vectors="shared")
    assert_same_model(expected, merged(moved, family.out))
    assert () == verify(family.out).damage
    assert recompute(family.out, 1.0) > 0


def test_the_store_is_deterministic_and_known_again(family: Family) -> None:
    """The same command has nothing to do; another folder gets the same bytes; a part of it can be computed again."""
    recipe = family.recipe()
    first = store(recipe, family.home / "one", workers=3)
    before = tree_bytes(family.home / "one")
    assert first == store(recipe, family.home / "one")
    assert before == tree_bytes(family.home / "one")
    store(recipe, family.home / "two")
    assert before == tree_bytes(family.home / "two")
    assert recompute(family.home / "one", 1.0) > 0


def test_the_card_says_what_a_store_is(family: Family) -> None:
    """Whoever finds a store learns from its card of which models it is, what each keeps, and how to merge it."""
    store(family.recipe(), family.home / "store")
    card = (family.home / "store" / "README.md").read_text()
    assert "changes to `base`" in card
    assert "| `math` | 0.2500 |" in card
    assert "`vectors:`" in card
    assert family.recipe_path.read_text().strip() in card


def test_an_interrupted_store_is_continued(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption the same call goes on from the journal, and the bytes are those of one run."""
    commit_often(monkeypatch)
    recipe = family.recipe()
    store(recipe, family.home / "whole")
    with pytest.raises(InterruptedMergeError, match="store interrupted"):
        make_vectors(recipe, family.out, None, RunOptions(workers=1), Interrupter(3))
    assert not family.out.exists()
    seen = Interrupter(10**6)
    make_vectors(recipe, family.out, None, RunOptions(workers=1), seen)
    assert any("Continuing an unfinished store" in getattr(event, "text", "") for event in seen.seen)
    assert tree_bytes(family.home / "whole") == tree_bytes(family.out)


def test_ties_and_heads_are_those_of_the_models(tmp_path: Path) -> None:
    """A head that one model unties from its embedding is merged from the store as from the models."""
    base = {**llama_tensors(0)}
    head = base.pop("lm_head.weight")
    models = [llama_tensors(number, {**base, "lm_head.weight": head}) for number in (1, 2)]
    models[0].pop("lm_head.weight")
    config = {"tie_word_embeddings": True}
    write_checkpoint(tmp_path / "base", base, config=config)
    write_checkpoint(tmp_path / "m0", models[0], config=config)
    write_checkpoint(tmp_path / "m1", models[1], config={"tie_word_embeddings": False})
    folders, pruning = [tmp_path / "m0", tmp_path / "m1"], Pruning("cabs", {"n": 1, "m": 4})
    recipe = written(tmp_path / "r.yml", pruning, tmp_path / "base", folders, [1, 1])
    store(recipe, tmp_path / "store")
    expected = merged(recipe, tmp_path / "models")
    recipe = written(tmp_path / "v.yml", pruning, tmp_path / "base", folders, [1, 1], vectors="store")
    assert_same_model(expected, merged(recipe, tmp_path / "vectors"))
    assert any(name.startswith("lm_head") for name in read_manifest(tmp_path / "vectors")["tensors"])


def test_copies_of_tensors_are_those_of_the_models(tmp_path: Path) -> None:
    """A tensor that a model stores once and the base model twice is merged from the store as from the models."""
    base = llama_tensors(0)
    base["shared.weight"] = base["model.embed_tokens.weight"].copy()
    models = [llama_tensors(number, base) for number in (1, 2)]
    models[1]["shared.weight"] = models[1]["model.embed_tokens.weight"].copy()
    for name, tensors in (("base", base), ("m0", models[0]), ("m1", models[1])):
        write_checkpoint(tmp_path / name, tensors)
    folders, pruning = [tmp_path / "m0", tmp_path / "m1"], Pruning("dare_linear", {"density": 0.5})
    recipe = written(tmp_path / "r.yml", pruning, tmp_path / "base", folders, [1, 1])
    store(recipe, tmp_path / "store")
    expected = merged(recipe, tmp_path / "models")
    recipe = written(tmp_path / "v.yml", pruning, tmp_path / "base", folders, [1, 1], vectors="store")
    assert_same_model(expected, merged(recipe, tmp_path / "vectors"))


def test_slices_are_those_of_the_models(family: Family) -> None:
    """Layers that slices repeat are merged from the store as from the models, with parameters by slice."""

    def slices(weight: float) -> list[dict[str, Any]]:
        return [
            {
                "sources": [
                    {"model": str(model), "layer_range": [0, 2], "parameters": {"weight": weight, "n": n, "m": 8}}
                    for model in (family.math, family.code)
                ]
            }
            for n in (1, 3)
        ]

    def recipe(weight: float, **keys: Any) -> dict[str, Any]:
        content = {"merge_method": "cabs", "base_model": str(family.base), "slices": slices(weight), **keys}
        for each in content["slices"]:
            base = {"model": str(family.base), "layer_range": [0, 2]}
            each["sources"].insert(0, base)
        return content

    make_vectors(recipe(1.0), family.home / "store")
    expected = family.home / "expected"
    merge(recipe(0.4), expected)
    merge(recipe(0.4, vectors=str(family.home / "store")), family.out)
    assert_same_model(expected, family.out)


def test_a_store_reads_as_zarr(family: Family) -> None:
    """Any reader of Zarr finds the marks and the values of a model: what stands there is the model's own."""
    import zarr

    recipe = family.recipe(parameters={"n": 8, "m": 32, "weight": 1.0})
    store(recipe, family.home / "store")
    group = zarr.open_group(family.home / "store", mode="r")
    name = "model.norm.weight"
    marks = np.asarray(group[f"{name}.marks.0"])[0]
    kept = np.unpackbits(marks[32:], bitorder="little")[:64].astype(bool)
    values = np.asarray(group[f"{name}.values.0"])[0]
    base = llama_tensors(0)
    tuned = llama_tensors(1, base)[name]
    assert 16 == kept.sum() == int(marks[:8].view(np.uint64)[0])
    assert tuned[kept].tobytes() == values[:16].astype(ml_dtypes.bfloat16).tobytes()
    assert not values[16:].astype(np.float32).any()
    change = np.abs(tuned.astype(np.float32) - base[name].astype(np.float32))
    assert change[kept].min() >= np.sort(change)[-40]


def test_the_dtypes_of_awkward_models_are_all_stored() -> None:
    """The property above draws from all dtypes but one that behaves as another does."""
    assert {"float32", "bfloat16", "float16", "float64", "float8_e4m3fn"} == set(DTYPES) - {"float8_e5m2"}

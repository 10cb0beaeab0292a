"""Stores that cannot be made, that do not fit a recipe or a base model, or that are damaged: refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.vectors import make_vectors
from dovetail.engine.actions.verify import verify
from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.errors import CheckpointError, NonFiniteError, StoreError
from tests.checkpoints import BF16, llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family

NAME = "model.norm.weight"


@pytest.fixture
def stored(family: Family) -> Family:
    """Make the family's store, ``store``, and let its recipe name it."""
    make_vectors(family.recipe(parameters=_parameters()), family.home / "store")
    _recipe(family)
    return family


def _parameters(**changes: Any) -> dict[str, Any]:
    return {"n": 8, "m": 32, "weight": 0.5, **changes}


def _recipe(family: Family, **changes: Any) -> Path:
    """Write a recipe that merges from the store."""
    return family.recipe(**{"parameters": _parameters(), "vectors": str(family.home / "store"), **changes})


def _models(family: Family, *names: str) -> list[dict[str, Any]]:
    return [{"model": str(family.home / name)} for name in names]


UNLIKE: dict[str, tuple[Callable[[Family], dict[str, Any]], str]] = {
    "n": (lambda _: {"parameters": _parameters(n=9)}, r"the n of model .*math is 9 for tensor .*; expected 8, as in"),
    "m": (lambda _: {"parameters": _parameters(m=64)}, r"the m of model .*math is 64 for tensor .*; expected 32, as"),
    "one tensor": (
        lambda _: {"parameters": _parameters(n=[{"filter": "norm", "value": 7}, {"value": 8}])},
        r"the n of model .*math is 7 for tensor '.*norm.*'; expected 8, as in the store",
    ),
    "an option": (lambda _: {"parameters": _parameters(overlap="minimize")}, r'the overlap is "minimize" for tensor'),
    "order": (
        lambda family: {"models": _models(family, "code", "math")},
        r'the order of models is \[".*code", ".*math"\] for tensor .*; expected \[".*math", ".*code"\]',
    ),
    "order of pruning": (
        lambda family: {"parameters": _parameters(pruning_order=[str(family.code), str(family.math)])},
        r"the order of models is ",
    ),
    "method": (
        lambda _: {"merge_method": "nm_pruning"},
        r"merge_method is nm_pruning, and the store .* was made by cabs; expected",
    ),
    "a model too few": (lambda family: {"models": _models(family, "math")}, r"lacks the model '.*code', which the"),
    "another model": (
        lambda family: {"models": _models(family, "math", "cod")},
        r"has no model '.*cod'.*; expected one of .*math, .*code",
    ),
    "a tokenizer": (lambda _: {"tokenizer_source": "union"}, r"has 'vectors' and asks for a tokenizer"),
    "a method without task vectors": (
        lambda _: {"merge_method": "linear"},
        r"task vectors of linear cannot be stored: it has no task vectors",
    ),
}
"""What of a recipe is not as in the store, and the line that says so."""


@pytest.mark.parametrize("name", UNLIKE)
def test_what_decides_masks_must_agree(stored: Family, name: str) -> None:
    """A recipe that keeps other changes than the store has is refused, with the first difference named."""
    changes, text = UNLIKE[name]
    with pytest.raises(RecipeError, match=text) as caught:
        merge(_recipe(stored, **changes(stored)), stored.out)
    assert 2 == caught.value.exit_code
    assert not stored.out.exists()


def test_the_seed_of_random_masks_must_agree(family: Family) -> None:
    """A store of random masks is refused for another seed, and taken for its own."""
    changes: dict[str, Any] = {"merge_method": "dare_linear", "parameters": {"density": 0.5, "weight": 1.0}}
    make_vectors(family.recipe(**changes), family.home / "store", PlanOptions(seed=7))
    recipe = family.recipe(**changes, vectors=str(family.home / "store"))
    with pytest.raises(RecipeError, match=r"the seed is 0, and the store .* was made with 7; .*; pass --seed 7"):
        merge(recipe, family.out)
    merge(recipe, family.out, PlanOptions(seed=7))


def test_a_base_model_with_other_values_is_refused(stored: Family) -> None:
    """Another base model of the same names and shapes is found out by its values, before there is an output."""
    write_checkpoint(stored.base, llama_tensors(5), shards=2)
    outcome = dovetail("merge", _recipe(stored), stored.out)
    assert 3 == outcome.code
    assert re.search(r"error: tensor '.*' of .*base has other values, .*; expected the base model of the", outcome.err)
    assert not stored.out.exists()


def test_a_base_model_with_other_tensors_is_refused(stored: Family) -> None:
    """A base model of other shapes is refused before anything is read."""
    write_checkpoint(stored.base, llama_tensors(0, layers=1))
    with pytest.raises((RecipeError, CheckpointError)):
        merge(_recipe(stored), stored.out)


def _flip(store: Path) -> None:
    path = next((store / f"{NAME}.values.0").glob("c*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _cut_document(store: Path) -> None:
    path = store / "dovetail_vectors.json"
    path.write_bytes(path.read_bytes()[:-40])


def _change_document(store: Path, key: str, value: Any) -> None:
    path = store / "dovetail_vectors.json"
    document = json.loads(path.read_text())
    document["tensors"][NAME][key] = value
    path.write_text(json.dumps(document))


def _array(store: Path, kind: str, model: int = 0) -> Any:
    return zarr.open_group(store, mode="r+", use_consolidated=False)[f"{NAME}.{kind}.{model}"]


def _set_mark(store: Path, mark: int) -> None:
    """Set or clear a mark, with a sound checksum."""
    array = _array(store, "marks")
    row = np.asarray(array[0])
    bits = np.unpackbits(row[32:], bitorder="little")
    place = int(np.flatnonzero(bits[:64] != mark)[0])
    row[32 + place // 8] ^= np.uint8(1 << (place % 8))
    array[0] = row


def _set_mark_beyond(store: Path) -> None:
    array = _array(store, "marks")
    row = np.asarray(array[0])
    row[0] += 1
    array[0] = np.concatenate([row[:-1], [np.uint8(128)]])


def _set_value(store: Path, place: int, value: float) -> None:
    array = _array(store, "values")
    row = np.asarray(array[0])
    row[place] = np.array(value, BF16).view(row.dtype)
    array[0] = row


def _remove_chunk(store: Path) -> None:
    next((store / f"{NAME}.values.0").glob("c*")).unlink()


def _swap_arrays(store: Path) -> None:
    shutil.rmtree(store / f"{NAME}.values.0")
    shutil.copytree(store / "lm_head.weight.values.0", store / f"{NAME}.values.0")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a damaged chunk": (_flip, r"model.norm.weight.values.0"),
    "a cut document": (_cut_document, r"dovetail_vectors.json is not JSON .*; expected the document of a store"),
    "no document": (lambda store: (store / "dovetail_vectors.json").unlink(), r"is no store of task vectors"),
    "a document of nonsense": (
        lambda store: _change_document(store, "chunk", -1),
        r"dovetail_vectors.json is damaged \(TypeError: .*; expected the document of a store",
    ),
    "another chunk": (
        lambda store: _change_document(store, "chunk", 3),
        r"array 'model.norm.weight.marks.0' of .* is U8 of shape \[1, 40\]; expected U8 of shape \[22, 40\]",
    ),
    "a mark too many": (lambda store: _set_mark(store, 1), r"marks 17 places; expected 16 within its 64 elements"),
    "a mark too few": (lambda store: _set_mark(store, 0), r"marks 15 places; expected 16 within its 64 elements"),
    "a value too many": (lambda store: _set_value(store, 20, 1.0), r"has other values than for its 16 marks"),
    "a value that is NaN": (lambda store: _set_value(store, 3, np.nan), r"holds NaN or infinity; expected finite"),
    "a missing chunk": (_remove_chunk, r"array 'model.norm.weight.values.0' of .* has 0 chunks; expected 1"),
    "an array of another shape": (_swap_arrays, r"array 'model.norm.weight.values.0' of .* is BF16 of shape \[1, 15"),
}
"""What is done to a store, and the line that says so."""


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_stores_are_refused(stored: Family, name: str) -> None:
    """Whatever of a store is damaged, the merge ends with exit code 3 and one line, and no output."""
    damage, text = DAMAGE[name]
    damage(stored.home / "store")
    with pytest.raises(CheckpointError, match=text) as caught:
        merge(stored.recipe_path, stored.out)
    assert 3 == caught.value.exit_code
    assert not stored.out.exists()
    if name != "no document":
        assert verify(stored.home / "store").damage


def test_what_is_no_store_is_refused(family: Family) -> None:
    """A model in the place of a store is named as one that is none."""
    with pytest.raises(StoreError, match=r"math is no store of task vectors: dovetail_vectors.json cannot be read"):
        merge(_recipe(family, vectors=str(family.math)), family.out)


UNSTORABLE: dict[str, tuple[dict[str, Any], str]] = {
    "linear": ({"merge_method": "linear"}, r"task vectors of linear cannot be stored: it has no task vectors that"),
    "sce": ({"merge_method": "sce"}, r"task vectors of sce cannot be stored: what it takes of a model depends on how"),
    "a tokenizer": ({"tokenizer_source": "union"}, r"the recipe asks for a tokenizer, and a store has none"),
    "a store": ({"vectors": "store"}, r"the recipe merges from the store store; expected a recipe that merges models"),
}
"""Recipes of which no store can be made, and the line that says why."""


@pytest.mark.parametrize("name", UNSTORABLE)
def test_what_cannot_be_stored_is_refused(family: Family, name: str) -> None:
    """A recipe of which no store can be made is refused with the reason."""
    changes, text = UNSTORABLE[name]
    parameters = {"weight": 1.0} if "merge_method" in changes else _parameters()
    recipe = family.recipe(**{"parameters": parameters, **changes})
    with pytest.raises(RecipeError, match=text):
        make_vectors(recipe, family.out)
    assert not family.out.exists()


def test_a_recipe_of_stages_is_refused(family: Family) -> None:
    """Of several documents it is not clear which is to be stored."""
    family.recipe_path.write_text(f"{family.recipe(name='one').read_text()}---\n{family.recipe().read_text()}")
    with pytest.raises(RecipeError, match=r"the recipe has 2 documents; expected one; make a store of each"):
        make_vectors(family.recipe_path, family.out)


def test_models_with_nan_are_refused(family: Family) -> None:
    """NaN is an error when a store is made, and no option lets it pass."""
    tensors = llama_tensors(1, llama_tensors(0))
    tensors[NAME][3] = np.nan
    write_checkpoint(family.math, tensors)
    with pytest.raises(NonFiniteError, match=r"math: tensor 'model.norm.weight' holds nan at element 3") as caught:
        make_vectors(family.recipe(), family.out)
    assert "--nonfinite" not in str(caught.value)


def test_the_command_makes_a_store_and_says_how_to_use_it(family: Family) -> None:
    """The command ends with the line that a recipe needs; a second run has nothing to do; mistakes have exit code 2."""
    recipe = family.recipe()
    outcome = dovetail("vectors", recipe, family.out, "--codec", "zstd")
    assert 0 == outcome.code
    assert f"vectors: {family.out}" in outcome.out
    assert "nothing to do" in dovetail("vectors", recipe, family.out, "--codec", "zstd").err
    assert 5 == dovetail("vectors", recipe, family.out).code
    assert 0 == dovetail("vectors", recipe, family.out, "--overwrite", "--quiet").code
    assert 4 == dovetail("vectors", recipe, family.home / "other", "--memory", "2MiB").code
    assert 2 == dovetail("vectors", family.recipe(merge_method="linear"), family.home / "other").code

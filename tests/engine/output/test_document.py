"""Manifests as callers from Python get them: dicts, with the statistics of every tensor as a table."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import PlanOptions, compare, merge, read_manifest
from dovetail.engine.errors import VerificationError
from dovetail.io import UnsupportedError
from tests.checkpoints import llama_tensors, read_output, write_checkpoint
from tests.engine.conftest import Family


@pytest.fixture
def recipe(family: Family) -> dict[str, Any]:
    """Merge the family by TIES, with a tensor of integers."""
    for number, folder in enumerate((family.base, family.math, family.code)):
        base = llama_tensors(0)
        tensors = llama_tensors(number, base) if number else base
        write_checkpoint(folder, {**tensors, "model.ids": np.arange(number, number + 3)})
    models = [{"model": str(folder), "parameters": {"weight": 1}} for folder in (family.math, family.code)]
    return {"merge_method": "ties", "base_model": str(family.base), "models": models, "parameters": {"density": 0.3}}


def test_table_has_what_the_manifest_says(family: Family, recipe: dict[str, Any]) -> None:
    """Each record has a tensor's numbers, by model; norms are those of the tensors, computed anew."""
    found = merge(recipe, family.out)
    whole = read_manifest(family.out)
    assert "tensors" not in found
    table = found.table()
    assert list(whole["tensors"]) == list(table.name)
    for row in table:
        entry = whole["tensors"][row["name"]]
        said = entry["statistics"]
        assert (entry["dtype"], tuple(entry["shape"])) == (row["dtype"], row["shape"])
        assert math.prod(entry["shape"]) == row["elements"]
        if not row["copied"]:
            assert said["kept"] == row["kept"].tolist()
            assert said["density"] == row["density"].tolist()
            assert said["overlap"] == row["overlap"].tolist()
            assert (said["merged_norm"], sum(said["nonfinite"])) == (row["merged_norm"], row["nonfinite"])
    (copied,) = table[table.copied]
    assert ("model.ids", True, True) == (copied["name"], copied["differing"], bool(np.isnan(copied["density"]).all()))
    base, math_ = (read_output(folder) for folder in (family.base, family.math))
    name = "model.norm.weight"
    norm = np.linalg.norm(math_[name].astype(np.float64) - base[name].astype(np.float64))
    assert np.isclose(norm, table[table.name == name][0]["task_vector_norm"][0])


def test_data_frames(family: Family, recipe: dict[str, Any]) -> None:
    """A data frame has a row a tensor and a column a model, and so has that of a comparison."""
    frame = merge(recipe, family.out).to_pandas()
    table = read_manifest(family.out).table()
    np.testing.assert_array_equal(table.density[:, 1], frame["density[code]"])
    np.testing.assert_array_equal(table.overlap[:, 0, 1], frame["overlap[math, code]"])
    assert (97, 64) == frame.loc["lm_head.weight", "shape"]
    found = compare(family.math, family.code)
    frame = found.to_pandas()
    assert [each.max_abs for each in found.differences] == frame["max_abs"].tolist() == found.table().max_abs.tolist()
    assert {("BF16", "BF16"), ("I64", "I64")} == set(zip(frame["first"], frame["second"], strict=True))


def test_infinite_norms(tmp_path: Path) -> None:
    """A norm that JSON has no number for is infinite in the table."""
    for name, value in (("base", 0), ("tuned", np.inf)):
        write_checkpoint(tmp_path / name, {"weight": np.full(4, value, np.float32)})
    models = [{"model": str(tmp_path / "tuned"), "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models}
    (row,) = merge(recipe, tmp_path / "out", PlanOptions(keep_nonfinite=True)).table()
    assert (np.inf, 4) == (row["task_vector_norm"][0], row["nonfinite"])


def test_manifests_are_dicts(family: Family, recipe: dict[str, Any]) -> None:
    """They are written as JSON, copied and pickled as any dict is, and copies know their output."""
    found = merge(recipe, family.out)
    assert found == json.loads(json.dumps(found)) == dict(found)
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert found == again
        assert len(found.table()) == len(again.table())


def test_errors(family: Family, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of an output that has been made anew since is refused; without pandas the error names the extra."""
    found = merge(recipe, family.out)
    (family.out / "dovetail_manifest.json").rename(family.home / "kept.json")
    with pytest.raises(VerificationError, match="there is no dovetail_manifest"):
        found.table()
    merge({**recipe, "merge_method": "task_arithmetic", "parameters": {}}, family.home / "other")
    (family.home / "other" / "dovetail_manifest.json").rename(family.out / "dovetail_manifest.json")
    with pytest.raises(VerificationError, match="is another output by now"):
        found.table()
    (family.home / "kept.json").rename(family.out / "dovetail_manifest.json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"frames need the package pandas.*pip install 'dovetail\[pandas\]'"):
        found.to_pandas()

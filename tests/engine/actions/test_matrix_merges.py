"""Whole merges by methods that decompose matrices: memory, filters, and what is not finite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import RunOptions, merge, plan, recompute
from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.planning import grid
from dovetail.engine.run import prepare
from dovetail.io.errors import NonFiniteError
from tests.checkpoints import read_output, write_checkpoint

BOTH = pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
SHAPES = {"embed.weight": (90, 40), "tall.weight": (70, 30), "wide.weight": (30, 70), "norm.weight": (30,)}


def write_models(folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Write a base model and two fine-tunes in float32, and give the tensors of all three."""
    random = np.random.default_rng(seed)
    made = [{name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in "123"]
    for name, tensors in zip(("base", "a", "b"), made, strict=True):
        write_checkpoint(folder / name, tensors)
    return made


def recipe(folder: Path, method: str, **parameters: Any) -> dict[str, Any]:
    """Describe a merge of the models."""
    models = [{"model": str(folder / name)} for name in "ab"]
    return {"merge_method": method, "base_model": str(folder / "base"), "models": models, "parameters": parameters}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors that are small into chunks."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 320)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)


@BOTH
@pytest.mark.usefixtures("cut")
def test_a_limit_that_is_too_small_names_one_that_does(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What matrices take is part of the plan: it is refused before anything is read, and the limit named suffices."""
    random = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        write_checkpoint(tmp_path / name, {"w": random.standard_normal((700, 600)).astype(np.float32)})
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)
    made = plan(recipe(tmp_path, method))
    least = 7 * 8 * 600**2
    assert least < made.accumulated_bytes(1) < 2 * least
    with pytest.raises(MemoryLimitError) as caught:
        merge(recipe(tmp_path, method), tmp_path / "out", run=RunOptions(memory="224MiB"))
    assert not (tmp_path / "out").exists()
    found = re.fullmatch(r"memory limit 224 MiB is too small .*; pass --memory (\d+)MiB or more", str(caught.value))
    assert found
    merge(recipe(tmp_path, method), tmp_path / "out", run=RunOptions(memory=f"{found[1]}MiB"))
    assert (700, 600) == read_output(tmp_path / "out")["w"].shape


@BOTH
def test_filters_leave_tensors_to_the_mean(method: str, tmp_path: Path) -> None:
    """A filter says of which tensors task vectors are averaged, as those of vectors always are."""
    _, *models = write_models(tmp_path)
    decompose = [{"filter": "embed", "value": "none"}, {"value": "matrices"}]
    merge(recipe(tmp_path, method, decompose=decompose), tmp_path / "out")
    found = read_output(tmp_path / "out")
    for name in SHAPES:
        mean = np.mean([model[name] for model in models], axis=0)
        assert (name in ("embed.weight", "norm.weight")) == np.allclose(mean, found[name], atol=1e-5), name


@BOTH
@pytest.mark.usefixtures("cut")
def test_recomputing_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    """A finished merge can be checked by computing it again, tall and wide matrices in chunks."""
    write_models(tmp_path)
    merge(recipe(tmp_path, method), tmp_path / "out")
    assert recompute(tmp_path / "out", 1.0) > 0


@BOTH
@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("name", ["tall.weight", "wide.weight", "norm.weight"])
def test_what_is_not_finite_is_named(method: str, name: str, tmp_path: Path) -> None:
    """The error names the model, the tensor and the element, though decompositions come to nothing before."""
    _, _, model = write_models(tmp_path)
    model[name].reshape(-1)[17] = np.nan
    write_checkpoint(tmp_path / "b", model)
    with pytest.raises(NonFiniteError, match=rf"/b: tensor '{name}' holds nan at element 17"):
        merge(recipe(tmp_path, method), tmp_path / "out")

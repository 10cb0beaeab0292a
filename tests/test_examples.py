"""Every method has a recipe to start from, and every method gives the same bits however it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.moe import make_moe
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run import prepare
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.synthetic import SIZES, make_checkpoint
from dovetail.io.output import SafetensorsFormat
from tests.checkpoints import llama_tensors, read_output, write_checkpoint
from tests.engine.awkward import same_bits

EXAMPLES = Path(__file__).parent.parent / "examples"
RECIPES = sorted(EXAMPLES.glob("*.yml"))
LAYERS = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small family where the demonstration has its own."""
    folder = tmp_path_factory.mktemp("home")
    base = llama_tensors(0, layers=LAYERS)
    config = {"num_hidden_layers": LAYERS}
    write_checkpoint(folder / "dovetail-demo/base", base, config=config)
    for seed, name in enumerate(("math", "code"), 1):
        write_checkpoint(folder / f"dovetail-demo/{name}", llama_tensors(seed, base, layers=LAYERS), config=config)
    return folder


def test_every_method_has_an_example() -> None:
    """The recipe of a method bears its name, says what it does, and how to run it."""
    assert set(METHODS) <= {path.stem for path in RECIPES}
    for path in RECIPES:
        first, second, *_ = path.read_text().splitlines()
        assert first.startswith("# ")
        assert first.endswith(".")
        assert f"# make demo && .venv/bin/dovetail merge examples/{path.name} merged-{path.stem}" == second


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_the_recipe_decides_a_bit(method: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tensors, much memory and one worker, or chunks of 1,600 elements, little and three: the same weights."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(prepare, "resident_bytes", lambda: 200 * 2**20)
    recipe = EXAMPLES / f"{method}.yml"
    assert method == yaml.safe_load(recipe.read_text())["merge_method"]
    merge(recipe, home / method, run=RunOptions(2**31, 1))
    expected = read_output(home / method)
    assert read_manifest(home / method)["totals"]["overflowed"] == 0
    monkeypatch.setattr(grid, "CHUNK_STEP", 1600)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    merge(recipe, home / f"{method}-cut", PlanOptions(SafetensorsFormat(20_000)), RunOptions(350 * 2**20, 3))
    found = read_output(home / f"{method}-cut")
    assert set(expected) == set(found)
    assert all(same_bits(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_seeds_choose_other_masks(method: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed gives another model, the same seed the same one."""
    monkeypatch.chdir(home)
    outputs = []
    for number, seed in enumerate((0, 1, 0)):
        merge(EXAMPLES / f"{method}.yml", home / f"{method}-seed{number}", PlanOptions(seed=seed))
        outputs.append(read_output(home / f"{method}-seed{number}"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not same_bits(outputs[0][name], outputs[1][name])
    assert same_bits(outputs[0][name], outputs[2][name])


def test_the_mixture_of_experts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of `dovetail moe` runs on the demonstration's models."""
    monkeypatch.chdir(home)
    path = EXAMPLES / "moe/mixtral.yml"
    assert f"# make demo && .venv/bin/dovetail moe examples/moe/{path.name} experts" == path.read_text().splitlines()[1]
    for model, name in enumerate(("base", "math", "code")):
        make_checkpoint(home / "small/dovetail-demo" / name, SIZES["tiny"], model, pool_elements=1 << 16)
    monkeypatch.chdir(home / "small")
    make_moe(path, home / "experts")
    assert "Mixtral" == read_manifest(home / "experts")["moe"]["architecture"]

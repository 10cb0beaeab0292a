"""What is done while calls fail: every command that makes something, on tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dovetail.engine.synthetic import LlamaShape, write_side_files
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.planning.vocabulary.samples import copy_models, recipe
from tests.faults.strikes import Action, Strike

_SHARDS = ("--shard-size", "20000")
_MERGE = ("merge", "../in/recipe.yml", "out", "--workers", "1")
_CABS = {"merge_method": "cabs", "parameters": {"n": 4, "m": 16, "weight": 0.8}, "dtype": "bfloat16"}
_SMALL = LlamaShape(16, 24, 1, 2, 1, 24)


@dataclass(frozen=True)
class Scenario:
    """A command, its inputs, and what is there before it."""

    name: str
    """Its name."""
    arguments: tuple[str, ...]
    """The command. It runs in a folder of its own, beside which the folder `in` has the inputs."""
    write: Callable[[Path], None]
    """Writes the inputs into a folder."""
    earlier: tuple[tuple[str, ...], ...] = ()
    """Commands that have made what is there before, in the same folder."""
    cut: Strike | None = None
    """Where this command itself was killed before; None if it was not begun."""
    links: tuple[tuple[str, str], ...] = ()
    """Links in the folder, each with what it leads to, a folder."""

    @property
    def says_finished(self) -> bool:
        """Whether the same command, after this one, has nothing to do and says so."""
        return self.arguments[0] not in ("verify", "compare") and "--overwrite" not in self.arguments


def _family(folder: Path, **changes: Any) -> None:
    """Write a base model and two fine-tunes of it, and a recipe that merges them."""
    base = {name: tensor[:24, ...] for name, tensor in llama_tensors(0, layers=1).items()}
    models = {name: _changed(base, seed) for seed, name in ((1, "math"), (2, "code"))}
    write_checkpoint(folder / "base", base, shards=2)
    (folder / "base" / "tokenizer_config.json").write_text("{}")
    write_checkpoint(folder / "math", models["math"])
    write_checkpoint(folder / "code", models["code"], shards=2)
    _write_recipe(folder, {**_CABS, **changes, "base_model": "base", "models": [{"model": m} for m in models]})


def _changed(base: dict[str, Any], seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        name: (tensor.astype(np.float32) + random.standard_normal(tensor.shape) * 1e-3).astype(tensor.dtype)
        for name, tensor in base.items()
    }


def _write_recipe(folder: Path, *documents: dict[str, Any]) -> None:
    (folder / "recipe.yml").write_text(yaml.safe_dump_all(documents, sort_keys=False))


def _stages(folder: Path) -> None:
    _family(folder)
    mean = {"name": "mean", "merge_method": "linear", "models": [{"model": "math"}, {"model": "code"}]}
    more = {"name": "more", "merge_method": "linear", "models": [{"model": "mean"}, {"model": "code"}]}
    for stage in (mean, more):
        stage |= {"parameters": {"weight": 1.0}, "dtype": "bfloat16"}
    _write_recipe(folder, mean, more, {**_CABS, "base_model": "base", "models": [{"model": "more"}, {"model": "mean"}]})


def _adapter(folder: Path) -> None:
    _family(folder)
    base = llama_tensors(0, layers=1)
    tensors = {name: tensor[:24, ...] for name, tensor in base.items()}
    modules = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]
    write_adapter(folder / "adapter", lora_tensors(3, tensors, modules), target_modules=["q_proj", "up_proj"])
    models = [{"model": "base+adapter"}, {"model": "code"}]
    _write_recipe(folder, {**_CABS, "base_model": "base", "models": models})


def _vocabulary(folder: Path) -> None:
    models = copy_models(folder)
    content = recipe([Path(name) for name in models], tokenizer_source="union")
    _write_recipe(folder, content)


def _torch(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    _family(folder)
    for name in ("base", "math"):
        tensors: dict[str, Any] = {}
        for file in sorted((folder / name).glob("*.safetensors*")):
            if file.suffix == ".safetensors":
                tensors |= load_file(file)
            file.unlink()
        torch.save(tensors, folder / name / "pytorch_model.bin")


def _experts(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("base", "math")):
        random = np.random.default_rng(seed)
        shapes = _SMALL.tensors().items()
        tensors = {key: random.standard_normal(shape).astype(np.float32) for key, shape in shapes}
        write_checkpoint(folder / name, tensors)
        write_side_files(folder / name, _SMALL, "float32", [{}])
    experts = [{"source_model": "base"}, {"source_model": "math"}]
    _write_recipe(folder, {"base_model": "base", "gate_mode": "random", "dtype": "float32", "experts": experts})


_OTHER = ("merge", "../in/recipe.yml", "out", "--workers", "1", "--dtype", "float32", "--no-write-model-card")
_HALF = Strike("fsync", 9, Action.KILL)

SCENARIOS = (
    Scenario("merge", (*_MERGE, *_SHARDS), _family),
    Scenario("merge-zarr", (*_MERGE, "--format", "zarr"), _family),
    Scenario("overwrite", (*_MERGE, *_SHARDS, "--overwrite"), _family, earlier=(_OTHER,)),
    Scenario("resume", (*_MERGE, *_SHARDS), _family, cut=_HALF),
    Scenario(
        "last-part", (*_MERGE, *_SHARDS, "--part", "2/2"), _family, earlier=((*_MERGE, *_SHARDS, "--part", "1/2"),)
    ),
    Scenario("part-overwrite", (*_MERGE, *_SHARDS, "--part", "1/1", "--overwrite"), _family, earlier=(_OTHER,)),
    Scenario("restart", (*_MERGE, *_SHARDS, "--restart"), _family, cut=_HALF),
    Scenario("finished", (*_MERGE, *_SHARDS), _family, earlier=((*_MERGE, *_SHARDS),)),
    Scenario("linked", (*_MERGE, *_SHARDS), _family, links=(("out", "elsewhere/real"),)),
    Scenario("stages", _MERGE, _stages),
    Scenario("stages-kept", (*_MERGE, "--stages", "kept"), _stages),
    Scenario("stages-overwrite", (*_MERGE, "--overwrite"), _stages, earlier=(_OTHER,)),
    Scenario("to-zarr", ("convert", "../in/base", "out", "--format", "zarr", "--dtype", "float32"), _family),
    Scenario(
        "from-zarr",
        ("convert", "model.zarr", "out", "--workers", "2"),
        _family,
        earlier=(("convert", "../in/base", "model.zarr", "--format", "zarr"),),
    ),
    Scenario("several", ("convert", "../in/math", "../in/code", "out", "--dtype", "float16"), _family),
    Scenario("vectors", ("vectors", "../in/recipe.yml", "out"), _family),
    Scenario("adapter", _MERGE, _adapter),
    Scenario("extract-lora", ("extract-lora", "../in/math", "../in/base", "out", "--rank", "4"), _family),
    Scenario("vocabulary", _MERGE, _vocabulary),
    Scenario("torch", _MERGE, _torch),
    Scenario("moe", ("moe", "../in/recipe.yml", "out"), _experts),
    Scenario("verify", ("verify", "out", "--recompute", "1"), _family, earlier=((*_MERGE, *_SHARDS),)),
    Scenario("compare", ("compare", "../in/base", "../in/base"), _family),
)
"""All of them."""

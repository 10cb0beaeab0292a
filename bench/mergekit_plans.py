"""Runs in mergekit's environment: resolves recipes by mergekit's own planner and configuration classes.

Reads a JSON list of recipes with the names of their models' tensors from the file given, and prints a JSON list of
what every output tensor is merged from. Only what a planner needs of an architecture is given to it: no model is
loaded and nothing is merged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mergekit.architecture.base import WeightInfo
from mergekit.common import ModelReference
from mergekit.config import ConfigReader, MergeConfiguration
from mergekit.parameter_resolver import resolve_parameters
from mergekit.plan import MergePlanner


class Module:
    """One module of an architecture, as the planner asks for it."""

    def __init__(self, item: dict[str, Any], module: str, *, only: bool) -> None:
        stacks = [stack for stack in item["stacks"] if only or stack["module"] == module]
        self.stack, self.layers = (stacks[0] if stacks else None), item["layers"]
        self.before = [name for name, owner in item["before"].items() if only or owner == module]
        self.after = [name for name, owner in item["after"].items() if only or owner == module]

    def pre_weights(self, *_: Any) -> list[WeightInfo]:
        return [WeightInfo(name=name) for name in self.before]

    def post_weights(self, *_: Any) -> list[WeightInfo]:
        return [WeightInfo(name=name) for name in self.after]

    def layer_weights(self, index: int, *_: Any) -> list[WeightInfo]:
        return [WeightInfo(name=f"{self.stack['prefix']}{index}{suffix}") for suffix in self.stack["suffixes"]]

    def num_layers(self, *_: Any) -> int:
        return self.layers[self.stack["prefix"]] if self.stack else 0


class Planner(MergePlanner):
    """mergekit's planner, which notes what it would merge."""

    def __init__(self, config: MergeConfiguration, modules: dict[str, Module]) -> None:
        named = {name: SimpleNamespace(architecture=module) for name, module in modules.items()}
        super().__init__(config, SimpleNamespace(modules=named), SimpleNamespace(trust_remote_code=False), None)
        self.noted: dict[str, Any] = {}

    def _out_module_arch(self, module: str) -> Module:
        return self.arch_info.modules[module].architecture

    def _model_arch(self, model: ModelReference) -> SimpleNamespace:
        return SimpleNamespace(get_module=self._out_module_arch)

    def plan_tensor(
        self, weight: WeightInfo, weights_in: list[WeightInfo], models: list[ModelReference], cfg_reader: ConfigReader
    ) -> None:
        base = cfg_reader.base_model
        inputs = {model: tensor.name for model, tensor in zip(models, weights_in)}  # noqa: B905  as mergekit does
        merge, own = resolve_parameters(
            self._method.spec,
            tensor_name=weight.name,
            inputs=inputs,
            sources=cfg_reader.parameter_sources,
            base_model=base,
            t=cfg_reader.t,
        )
        self.noted[weight.name] = {
            "base": None if base is None else base.model.path,
            "inputs": [[model.model.path, tensor, dict(own[model])] for model, tensor in inputs.items()],
            "parameters": dict(merge),
        }


def resolve(item: dict[str, Any]) -> dict[str, Any]:
    """Resolve one recipe."""
    owners = [*item["before"].values(), *(stack["module"] for stack in item["stacks"]), *item["after"].values()]
    names = list(dict.fromkeys(owners))
    modules = {name: Module(item, name, only=len(names) == 1) for name in names}
    planner = Planner(MergeConfiguration.model_validate(item["document"]), modules)
    planner._plan()
    return planner.noted


if __name__ == "__main__":
    ModelReference.config = lambda *_, **__: None  # the modules above know the number of layers
    json.dump([resolve(item) for item in json.loads(Path(sys.argv[1]).read_text())], sys.stdout)

"""From the recipe of a mixture of experts to an ordinary plan: copies under new names, and small routers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.convert import CONVERT, conversion
from dovetail.engine.methods.copy import Copy
from dovetail.engine.methods.moe import MOE
from dovetail.engine.methods.program import Problem
from dovetail.engine.planning.experts.architectures import ARCHITECTURES, Architecture, moe_config
from dovetail.engine.planning.grid import chunk_elements
from dovetail.engine.planning.opened import requested_dtype
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.planning.work import Input, stored_bytes
from dovetail.engine.recipe.moe import Expert, MoeRecipe
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DType
from dovetail.io.errors import TensorMismatchError
from dovetail.io.formats.config import config_of
from dovetail.io.output_format import Chunking

_LAYER = re.compile(r"(model\.layers\.\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
_PROJECTION = re.compile(r"(model\.layers\.\d+\.self_attn)\.[qkv]_proj\.weight")
EMBEDDING = "model.embed_tokens.weight"
"""Name of the embedding in every model that can be made an expert."""

_BIAS = re.compile(r"\.(.)_proj\.bias$")

_UNUSED = ".rotary_emb.inv_freq"
"""How buffers end that old checkpoints have and models compute."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of experts, decided but for the values of its routers."""

    recipe: MoeRecipe
    """What was asked for."""
    architecture: Architecture
    """What is made."""
    checkpoints: Mapping[str, Checkpoint]
    """The models, by their names in the recipe."""
    config: dict[str, Any]
    """The base model's config.json."""
    layers: tuple[str, ...]
    """Names of the layers: ``model.layers.0`` and so on."""
    hidden: int
    """Width of the residual stream."""
    dtype: DType
    """Dtype of the routers."""

    @property
    def base(self) -> Checkpoint:
        """The base model."""
        return self.checkpoints[str(self.recipe.base_model)]

    def made_shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes of the tensors that no model has: routers and, where they must be there, zero biases."""
        made: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            made[self.architecture.gate(layer)] = (len(self.recipe.experts), self.hidden)
            if self.architecture.shared:
                made[self.architecture.shared_gate(layer)] = (1, self.hidden)
        if self.architecture.fills_biases:
            for name, info in self.base.tensors.items():
                bias = name.removesuffix("weight") + "bias"
                if _PROJECTION.fullmatch(name) and bias not in self.base.tensors:
                    made[bias] = info.shape[:1]
        return made


def plan_mixture(recipe: MoeRecipe, checkpoints: Mapping[str, Checkpoint]) -> Mixture:
    """Choose the architecture, and check that the models fit it and each other.

    Parameters
    ----------
    recipe
        What is asked for.
    checkpoints
        The models, by their names in the recipe.

    Raises
    ------
    RecipeError
        No mixture can be made of these models, or the recipe lacks what its architecture needs.
    TensorMismatchError
        The models have other tensors or shapes than they should.

    """
    base = checkpoints[str(recipe.base_model)]
    config = config_of(base)
    if config is None:
        raise RecipeError(f"{recipe.base_model} has no config.json", "a model in the Hugging Face layout")
    architecture = _choose(recipe, {name: config_of(each) or {} for name, each in checkpoints.items()})
    layers = tuple(dict.fromkeys(found.group(1) for name in base.tensors if (found := _LAYER.fullmatch(name))))
    if not layers or EMBEDDING not in base.tensors:
        raise TensorMismatchError(
            f"{recipe.base_model} has no feed-forward layers called model.layers.N.mlp",
            "a Llama, Mistral or Qwen",
        )
    embedding = base.tensors[EMBEDDING]
    dtype = requested_dtype(recipe.dtype) or embedding.output_dtype
    mixture = Mixture(recipe, architecture, checkpoints, config, layers, embedding.shape[1], dtype)
    moe_config(architecture, config, len(recipe.experts), recipe.experts_per_token)
    _check_activations(mixture)
    _check(mixture)
    return mixture


def _choose(recipe: MoeRecipe, configs: Mapping[str, Mapping[str, Any]]) -> Architecture:
    types = {str(config.get("model_type")) for config in configs.values()}
    wanted = (recipe.architecture or "").lower()
    fitting = [
        each
        for each in ARCHITECTURES
        if each.name.lower().startswith(wanted)
        and len(types) == 1
        and types <= set(each.sources)
        and len(recipe.shared_experts) == int(each.shared)
    ]
    if fitting:
        return fitting[0]
    raise RecipeError(
        f"a mixture of {' and '.join(sorted(types))} models with {len(recipe.shared_experts)} shared experts"
        + (f" and architecture {recipe.architecture!r}" if wanted else ""),
        "; ".join(
            f"{each.name} of {' or '.join(each.sources)} models, with {'one shared expert' if each.shared else 'none'}"
            for each in ARCHITECTURES
        ),
        "choose models of one type, and shared_experts to match",
    )


def _check_activations(mixture: Mixture) -> None:
    """Check that all feed-forward modules have the activation of the base model, the only one that a mixture has."""
    wanted = mixture.config.get("hidden_act", "silu")
    for expert in (*mixture.recipe.experts, *mixture.recipe.shared_experts):
        found = (config_of(mixture.checkpoints[str(expert.source_model)]) or {}).get("hidden_act", "silu")
        if found != wanted:
            raise RecipeError(
                f"expert {expert.source_model} has hidden_act {found!r}",
                f"{wanted!r} as in {mixture.recipe.base_model}",
                "make experts of models with one activation",
            )


def _check(mixture: Mixture) -> None:
    """Check that the mixture has a place for every tensor, and that the experts' matrices fit the base model's."""
    recipe, base = mixture.recipe, mixture.base
    for name in base.tensors:
        lost = ".mlp." in name and not _LAYER.fullmatch(name)
        bias = _BIAS.search(name)
        lost |= bias is not None and bias.group(1) not in mixture.architecture.biases
        if lost:
            raise TensorMismatchError(
                f"{recipe.base_model} has tensor {name!r}",
                f"none that {mixture.architecture.name} has no place for",
                "choose another architecture, or models without biases",
            )
    for expert in (*recipe.experts, *recipe.shared_experts):
        tensors = mixture.checkpoints[str(expert.source_model)].tensors
        for name, info in base.tensors.items():
            if not _LAYER.fullmatch(name):
                continue
            found = tensors.get(name)
            if found is None or found.shape != info.shape or not found.dtype.mergeable:
                what = "no" if found is None else f"{list(found.shape)} {found.dtype} for"
                raise TensorMismatchError(
                    f"expert {expert.source_model} has {what} tensor {name!r}",
                    f"{list(info.shape)} as in {recipe.base_model}",
                    "make experts of models of one size",
                )
        for name in tensors:
            if ".mlp." in name and name not in base.tensors:
                raise TensorMismatchError(
                    f"expert {expert.source_model} has tensor {name!r}",
                    f"no more than {recipe.base_model} has",
                    "make experts of models of one size",
                )


def planned_tensors(mixture: Mixture, made: Checkpoint) -> tuple[PlannedTensor, ...]:
    """Plan every output tensor.

    Parameters
    ----------
    mixture
        What is made.
    made
        Has the tensors of `Mixture.made_shapes`.

    """
    recipe, architecture = mixture.recipe, mixture.architecture
    planned = []
    for name, info in mixture.base.tensors.items():
        if name.endswith(_UNUSED):
            continue
        found = _LAYER.fullmatch(name)
        if found is None:
            planned.append(_planned(mixture, name, info, str(recipe.base_model)))
            continue
        layer, part = found.groups()
        places = [(architecture.expert(layer, index, part), each) for index, each in enumerate(recipe.experts)]
        places += [(architecture.shared_expert(layer, part), each) for each in recipe.shared_experts]
        planned += [_of_expert(mixture, place, name, expert) for place, expert in places]
    planned += [_planned(mixture, name, info, "gates") for name, info in made.tensors.items()]
    return tuple(planned)


def _of_expert(mixture: Mixture, name: str, source: str, expert: Expert) -> PlannedTensor:
    """Plan a matrix of an expert; the scale of the expert's output is applied to its last matrix."""
    label = str(expert.source_model)
    scale = expert.residual_scale if ".down_proj." in source else None
    return _planned(mixture, name, mixture.checkpoints[label].tensors[source], label, scale)


def _planned(mixture: Mixture, name: str, info: TensorInfo, label: str, scale: float | None = None) -> PlannedTensor:
    """Plan a tensor that is taken as it is, in the output's dtype, or scaled."""
    wanted = requested_dtype(mixture.recipe.dtype)
    dtype = wanted if wanted is not None and info.dtype.mergeable else info.output_dtype
    code = info.dtype.kernel_code
    problem = None
    if scale is not None and scale != 1.0:
        problem = Problem(
            name=name,
            shape=info.shape,
            length=math.prod(info.shape),
            base_code=None,
            model_codes=(code,),
            out_code=dtype.kernel_code,
            parameters={},
            model_parameters=({"scale": scale},),
            model_names=(label,),
        )
        program: Any = MOE.program(problem)
    elif dtype == info.dtype:
        program, code = Copy(compared=False), -1
    else:
        program = CONVERT.program(conversion(name, info.shape, code, dtype.kernel_code))
    element_bytes = info.dtype.itemsize + dtype.itemsize
    return PlannedTensor(
        name=name,
        shape=info.shape,
        length=info.length,
        dtype=dtype,
        program=program,
        problem=problem,
        base=None,
        models=(Input(info.source, code, label, info.name, stored_bytes(info, info.length)),),
        order=(list(mixture.checkpoints).index(label) if label in mixture.checkpoints else 0,),
        element_bytes=element_bytes,
        chunking=Chunking(chunk_elements(element_bytes, 1)),
    )

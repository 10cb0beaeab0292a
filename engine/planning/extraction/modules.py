"""How peft adapts each module of a model (as linear, as an embedding, or whole), by its tensors' names and shapes.

A checkpoint does not say of which kind its modules are. Names and configuration do, for all kinds that peft adapts.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

PREFIX: Final = "base_model.model."
"""What peft writes before the names of modules."""

_EMBEDDING = re.compile(r"embed_(?!out$)\w+|\w*_embed|\w*embeddings?|wte|wpe|shared|emb|relative_attention_bias")
"""What modules are called that look rows up."""

_HEADS: Final = ("lm_head", "embed_out", "output", "output_layer")
"""What output layers are called, outside the layers."""

_ROUTERS: Final = ("gate", "router")
"""What modules are called that choose experts: libraries keep them as parameters, which no adapter can wrap."""

_TRANSPOSED_MODELS: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Models (``model_type``) that store the weights of linear modules transposed: the Conv1D of transformers."""

_TRANSPOSED: Final = ("c_attn", "c_proj", "c_fc", "q_attn")
"""Names of those modules."""

_UNWRAPPED: Final = ("embed_positions", "dt_proj")
"""Modules that peft cannot wrap, all of them small: embeddings that are not called with indices, so that the wrapper
fails, and a projection of state-space models whose weight is read without calling it."""

_MAMBA: Final = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Models (``model_type``) whose ``out_proj`` peft refuses to wrap, as their kernels read its weight directly."""

_SHARED: Final[Mapping[str, str]] = {"zamba": "shared_transf", "zamba2": "shared_transformer"}
"""The module that several layers share and one of them stores, by ``model_type``: peft would change that one alone."""

_TIED_TASKS = re.compile(r"(ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration|ForPreTraining)$")
"""Architectures that have an output layer, stored or not."""


class Kind(enum.Enum):
    """What a module is to peft."""

    LINEAR = "linear"
    """Multiplies by a weight of shape outputs times inputs (times the kernel, where it convolves)."""
    TRANSPOSED = "transposed"
    """Multiplies by a weight of shape inputs times outputs."""
    EMBEDDING = "embedding"
    """Looks rows of its weight up."""
    WHOLE = "whole"
    """Anything else, of which an adapter can only have a whole copy."""

    @property
    def turned(self) -> bool:
        """Whether the adapter's product is the weight's change transposed."""
        return self in (Kind.TRANSPOSED, Kind.EMBEDDING)


def module_of(tensor: str) -> str:
    """Give the name of the module that a tensor belongs to; empty for a parameter of the model itself."""
    return tensor.rpartition(".")[0]


def kind_of(tensor: str, shape: Sequence[int], config: Mapping[str, Any] | None) -> Kind:
    """Decide of which kind the module of a tensor is.

    Parameters
    ----------
    tensor, shape
        Name and shape of the tensor.
    config
        The model's config.json, if it has one.

    """
    module, _, leaf = tensor.rpartition(".")
    name = module.rpartition(".")[2]
    if leaf != "weight" or not module or not 2 <= len(shape) <= 5 or min(shape) == 0 or is_router(tensor):
        return Kind.WHOLE
    if name in _UNWRAPPED or (name == "out_proj" and (config or {}).get("model_type") in _MAMBA):
        return Kind.WHOLE
    if len(shape) > 2:
        return Kind.WHOLE if shape[1] == 1 else Kind.LINEAR  # with one channel a group, nothing is left to factor
    if _EMBEDDING.fullmatch(name):
        return Kind.EMBEDDING
    if name in _TRANSPOSED and (config or {}).get("model_type") in _TRANSPOSED_MODELS:
        return Kind.TRANSPOSED
    return Kind.LINEAR


def is_router(tensor: str) -> bool:
    """Whether a tensor is the weight of a router or of a part of one, which may have other parts in memory."""
    *_, above, name, leaf = ("", "", *tensor.split("."))
    return leaf == "weight" and (name in _ROUTERS or above == "router")


def is_shared(tensor: str, config: Mapping[str, Any] | None) -> bool:
    """Whether a tensor belongs to several layers, of which one stores it."""
    part = _SHARED.get(str((config or {}).get("model_type")))
    return part is not None and part in tensor.split(".")


def is_head(tensor: str) -> bool:
    """Whether a tensor is the weight of an output layer."""
    return (
        tensor.rpartition(".")[2] == "weight"
        and module_of(tensor).rpartition(".")[2] in _HEADS
        and not re.search(r"(^|\.)\d+\.", tensor)
    )


def has_rows_of_tokens(tensor: str, shape: Sequence[int]) -> bool:
    """Whether a tensor may have a row for every token, so that its rows grow with the vocabulary."""
    name = module_of(tensor).rpartition(".")[2]
    return len(shape) in (1, 2) and (name in _HEADS or _EMBEDDING.fullmatch(name) is not None)


def ties_head(config: Mapping[str, Any] | None, said: bool | None) -> bool:
    """Whether a model without a stored output layer uses its embedding for one.

    Parameters
    ----------
    config
        Its config.json.
    said
        Whether the configuration says that the head is tied; None if it does not say.

    """
    if said is not None:
        return said
    names = (config or {}).get("architectures")
    return isinstance(names, list) and any(isinstance(name, str) and _TIED_TASKS.search(name) for name in names)


def matches(patterns: Sequence[str], tensor: str) -> bool:
    """Whether one of some patterns, with ``*`` and ``?``, fits a tensor's name, its module's, or the last part of that.

    So ``q_proj``, ``model.layers.0.*`` and ``model.norm.weight`` all match what their form suggests.
    """
    module = module_of(tensor)
    names = (tensor, module, module.rpartition(".")[2])
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

"""The routers of a mixture of experts: random, or from what the base model makes of each expert's prompts.

The formulas are mergekit-moe's: an expert's row is the mean direction of its positive prompts, less that of its
negative ones, of length one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import MemoryLimitError, RecipeError
from dovetail.engine.methods.uniform import normal, uniform
from dovetail.engine.planning.experts.plan import EMBEDDING, Mixture
from dovetail.engine.planning.vocabulary.files import SPECIAL_TOKENS, TOKENIZER_CONFIG, read_json
from dovetail.engine.planning.vocabulary.reading import open_tokenizer
from dovetail.engine.recipe.moe import Expert
from dovetail.engine.text import format_size
from dovetail.io.errors import CheckpointError, UnsupportedError
from dovetail.io.files.interrupts import check_interrupts
from dovetail.io.files.machine import resident_bytes
from dovetail.io.sources.floats import decode_into

Rows = NDArray[np.float64]
"""One row a layer, or one for all layers."""

SINGULAR = 5.0
"""Ratio of the largest and the smallest singular value of a router above which it hardly distinguishes experts."""


def gate_values(mixture: Mixture, seed: int, allowed_bytes: int) -> dict[str, NDArray[np.float64]]:
    """Compute the values of every tensor that no model has, by name.

    Parameters
    ----------
    mixture
        What is made.
    seed
        Seed of random routers.
    allowed_bytes
        Limit on this process, within which a model has to fit that is run for its hidden states.

    Raises
    ------
    RecipeError
        Something that the recipe's gate mode needs is missing.
    MemoryLimitError
        The base model does not fit.

    """
    shapes = mixture.made_shapes()
    if not mixture.recipe.needs_prompts:
        return {name: _random(mixture, name, shape, seed) for name, shape in shapes.items()}
    every = (*mixture.recipe.experts, *mixture.recipe.shared_experts)
    directions = _directions(mixture, every, allowed_bytes)
    made, experts = {}, len(mixture.recipe.experts)
    for name, shape in shapes.items():
        if name.endswith("bias"):
            made[name] = np.zeros(shape)
            continue
        layer = next(index for index, each in enumerate(mixture.layers) if name.startswith(f"{each}."))
        rows = np.stack([each[layer % len(each)] for each in directions])
        shared = mixture.architecture.shared and "shared_expert_gate" in name
        made[name] = rows[experts:] if shared else rows[:experts]
    return made


def _random(mixture: Mixture, name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    if name.endswith("bias"):
        return np.zeros(shape)
    if mixture.recipe.gate_mode == "random":
        return normal(name, math.prod(shape), seed).reshape(shape)
    return uniform(name, math.prod(shape), seed).reshape(shape) / math.sqrt(mixture.hidden)


def hardly_told_apart(gates: dict[str, NDArray[np.float64]], mixture: Mixture) -> list[str]:
    """Name the layers in which the router's rows are nearly dependent."""
    return [layer for layer in mixture.layers if np.linalg.cond(gates[mixture.architecture.gate(layer)]) > SINGULAR]


def _directions(mixture: Mixture, experts: Sequence[Expert], allowed_bytes: int) -> list[Rows]:
    """Give each expert's direction; zero for a shared expert without prompts, which then counts by half."""
    prompts = _tokens(mixture, experts)
    cheap = mixture.recipe.gate_mode == "cheap_embed"
    states = _embedded(mixture) if cheap else _hidden_states(mixture, allowed_bytes)

    def direction(texts: Sequence[str]) -> Rows:
        return states([prompts[text] for text in texts])

    found = []
    for expert in experts:
        if not expert.positive_prompts:
            found.append(np.zeros((1, mixture.hidden)))
            continue
        rows = direction(expert.positive_prompts)
        if expert.negative_prompts:
            rows = rows - direction(expert.negative_prompts)
        found.append(_unit(rows))
    return found


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-8))


def _tokens(mixture: Mixture, experts: Sequence[Expert]) -> dict[str, list[int]]:
    """Turn every prompt into the base model's tokens, the one that begins a text first."""
    tokenizer = open_tokenizer(mixture.base)
    begin = _begin(mixture)
    found = {}
    for expert in experts:
        for text in (*expert.positive_prompts, *expert.negative_prompts):
            found[text] = list(tokenizer.encode(begin + text, add_special_tokens=False).ids)
            if not found[text]:
                raise RecipeError(f"prompt {text!r} has no tokens", "a text", "write another")
    return found


def _begin(mixture: Mixture) -> str:
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        token = read_json(mixture.base, name).get("bos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return ""


def _embedded(mixture: Mixture) -> Callable[[list[list[int]]], Rows]:
    """Give the function that sums the embeddings of prompts and makes the sum a direction."""
    info = mixture.base.tensors[EMBEDDING]

    def row(token: int) -> NDArray[np.float32]:
        if token >= info.shape[0]:
            raise CheckpointError(
                f"token {token} has no row in {EMBEDDING} of {mixture.recipe.base_model}",
                f"fewer than {info.shape[0]} tokens",
                "use the tokenizer of the model",
            )
        start, stop = token * mixture.hidden, (token + 1) * mixture.hidden
        info.source.populate(start, stop)
        values = np.empty(mixture.hidden, np.float32)
        decode_into(info.source.read(start, stop), info.dtype, values)
        info.source.release(start, stop)
        return values

    def states(prompts: list[list[int]]) -> Rows:
        total = np.zeros(mixture.hidden)
        for token in (each for tokens in prompts for each in tokens):
            check_interrupts()
            total += row(token)
        return _unit(total[None])

    return states


def _hidden_states(mixture: Mixture, allowed_bytes: int) -> Callable[[list[list[int]]], Rows]:
    """Give the function that runs prompts through the base model, and averages what enters each layer."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UnsupportedError(
            f"gate_mode {mixture.recipe.gate_mode} needs the packages torch and transformers, which are not installed",
            "both, to run the base model",
            "pip install torch transformers, or use gate_mode: cheap_embed or random",
        ) from None
    base = mixture.base
    if base.folder is None or base.adapter is not None:
        raise RecipeError(
            f"base_model is {mixture.recipe.base_model}, which transformers cannot run as it is",
            f"a model in a folder, without an adapter, for gate_mode {mixture.recipe.gate_mode}",
            "merge or download it first, or use gate_mode: cheap_embed or random",
        )
    needed = 2 * sum(info.length for info in base.tensors.values())
    needed += needed // 4 + resident_bytes()
    if needed > allowed_bytes:
        raise MemoryLimitError(
            f"memory limit {format_size(allowed_bytes)} is too small to run {mixture.recipe.base_model} for gate_mode "
            f"{mixture.recipe.gate_mode}",
            f"at least {format_size(needed)}",
            f"pass --memory {-(-needed // 2**20)}MiB or more, or use gate_mode: cheap_embed or random",
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.bfloat16, trust_remote_code=False, local_files_only=True
    )
    model.eval()
    average = mixture.recipe.gate_mode == "hidden_avg"

    def states(prompts: list[list[int]]) -> Rows:
        total = np.zeros((len(mixture.layers), mixture.hidden))
        for tokens in prompts:
            check_interrupts()
            with torch.no_grad():
                found = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[:-1]
            layers = torch.stack(found)[:, 0].double().numpy()
            total += layers.mean(axis=1) if average else layers[:, -1]
        return total / len(prompts)

    return states

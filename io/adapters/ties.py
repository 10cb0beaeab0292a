"""Adapters of models that store one matrix as both their embedding and their head.

Such a model stays tied only where an adapter makes the same change to both, as peft does with ``ensure_weight_tying``.
Where an adapter makes the two differ, the head is read from the embedding under a name of its own, so that each gets
its own change, as in training. (``merge_and_unload`` of peft adds the changes of both to the one matrix, and says in a
warning that this is not what was trained.) Where it is not known how a model would have to store its head, or whether
it computes otherwise without a tie, as T5 does, the adapter is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.adapters.config import AdapterConfig
from dovetail.io.adapters.names import AdapterTensors
from dovetail.io.adapters.renaming import WHOLE_MODEL
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import AdapterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADS: Final = frozenset(
    (
        "lm_head", "embed_out", "output", "output_layer", "generator_lm_head", "lm_head.decoder",
        "cls.predictions.decoder",
    )
)  # fmt: skip
"""Names of head modules, without the components that stand for a whole model."""

_EMBEDDINGS: Final = frozenset(
    ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "embed", "embedding", "shared")
)
"""Last components of the names of embeddings."""

_GENERATIVE: Final = frozenset(("CAUSAL_LM", "SEQ_2_SEQ_LM"))
"""Tasks of models that have a head."""

_STEP_BYTES: Final = 1 << 20  # compared at a time

_PLAIN_HEADS: Final = frozenset(("lm_head", "embed_out", "output", "output_layer"))
"""Names of heads that are a matrix and nothing else."""

_UNTIE: Final = (
    "load the model in transformers with tie_word_embeddings=False, copy the embedding's weight into the head's, "
    "save the model, and apply the adapter to what was saved"
)
"""The advice about an adapter that makes the embedding and the head of a tied model differ."""


def settle_ties(
    label: str, checkpoint: Checkpoint, model: Mapping[str, Any], config: AdapterConfig, parts: AdapterTensors
) -> tuple[AdapterTensors, TensorInfo | None, tuple[str, ...]]:
    """Decide what becomes of the head of a model that stores it as its embedding.

    Changes of the head that are those of the embedding are left out. Else the head is a tensor of its own from now on.

    Parameters
    ----------
    label
        The adapter, for error messages.
    checkpoint, model
        The model, and its ``config.json``.
    config, parts
        The adapter's configuration and tensors.

    Returns
    -------
    tuple
        The tensors to apply, the head that the model has to store from now on (None if it stores one, or stays tied),
        and what a person should know, one sentence each.

    Raises
    ------
    AdapterError
        The adapter makes the head and the embedding differ, and how the model would store both is not known.

    """
    if any(_is_head(name.removesuffix(".weight")) for name in checkpoint.tensors):
        return parts, None, ()
    changed = {**parts.modules, **{name.removesuffix(".weight"): {} for name in parts.whole}}
    heads = [module for module in changed if _is_head(module)]
    embeddings = [module for module in changed if module.rpartition(".")[2] in _EMBEDDINGS]
    embedding = embeddings[0] if len(embeddings) == 1 else ""
    tied = _is_tied(model, config)
    for head in heads:
        if not _changed_alike(config, parts, head, embedding):
            return _untied(label, checkpoint, tied, parts, heads, f"changes {head!r} otherwise than the embedding")
    if not heads and embedding and tied:
        if f"{embedding}.weight" in parts.whole and any(embedding.endswith(each) for each in config.saved):
            does = f"replaces {embedding!r} and leaves the head as it was"
            return _untied(label, checkpoint, tied, parts, heads, does)
        if embedding in parts.modules and "tokens" not in parts.modules[embedding]:
            note = (
                f"{label} changes the embedding of {checkpoint.path}, which is the head as well: both change, as with "
                "merge_and_unload() of peft, although the head was left as it was in training"
            )
            return parts, None, (note,)
    modules = {module: each for module, each in parts.modules.items() if module not in heads}
    whole = {name: info for name, info in parts.whole.items() if name.removesuffix(".weight") not in heads}
    return replace(parts, modules=modules, whole=whole), None, ()


def _untied(
    label: str, checkpoint: Checkpoint, tied: bool, parts: AdapterTensors, heads: list[str], does: str
) -> tuple[AdapterTensors, TensorInfo, tuple[str, ...]]:
    """Let the model store its head beside its embedding, as large and as it was until now."""
    found = [
        name
        for name in checkpoint.tensors
        if name.removesuffix(".weight").rpartition(".")[2] in _EMBEDDINGS
        and name.endswith(".weight")
        and not any(each.isdecimal() for each in name.split("."))
    ]
    words = {head.rpartition(".")[2] for head in heads} or {"lm_head"}
    known = len(found) == len(words) == 1 and words <= _PLAIN_HEADS and not found[0].endswith("shared.weight")
    if not known or not tied:
        raise _differ(label, checkpoint, does)
    head = f"{_body_prefix(found[0])}{words.pop()}.weight"
    note = (
        f"{label} {does}, which {checkpoint.path} stores as one matrix: both are stored from now on, the head as "
        f"{head!r}"
    )
    return parts, checkpoint.tensors[found[0]]._replace(name=head), (note,)


def _body_prefix(embedding: str) -> str:
    """Give what stands before the names of a language model's body and of its head, which are beside each other."""
    components = embedding.split(".")[:-2]
    return "".join(f"{each}." for each in components[:-1]) if components[-1:] == ["model"] else ""


def _differ(label: str, checkpoint: Checkpoint, does: str) -> AdapterError:
    return AdapterError(
        f"{label} {does}, and {checkpoint.path} stores one matrix as both",
        "a model that stores its head beside its embedding",
        _UNTIE,
    )


def _is_head(module: str) -> bool:
    """Tell whether a module is a head, by its name."""
    return ".".join(each for each in module.split(".") if each not in WHOLE_MODEL) in _HEADS


def _is_tied(model: Mapping[str, Any], config: AdapterConfig) -> bool:
    """Tell whether a model without a stored head has one, which then is its embedding."""
    if config.task in _GENERATIVE:
        return True
    architectures = model.get("architectures")
    names = [each for each in architectures if type(each) is str] if type(architectures) is list else []
    if names and all(name.endswith("Model") for name in names):
        return False
    inner = [each for each in model.values() if type(each) is dict]
    return any(each.get("tie_word_embeddings") is True for each in (model, *inner))


def _changed_alike(config: AdapterConfig, parts: AdapterTensors, head: str, embedding: str) -> bool:
    """Tell whether an adapter makes the same change to a head as to the embedding."""
    one, other = parts.whole.get(f"{head}.weight"), parts.whole.get(f"{embedding}.weight")
    if (one is None) != (other is None) or (one is not None and other is not None and not _same(one, other)):
        return False
    one_parts, other_parts = parts.modules.get(head), parts.modules.get(embedding)
    if one_parts is None or other_parts is None:
        return one_parts is other_parts
    if set(one_parts) != {"A", "B"} or set(other_parts) != {"embedding_A", "embedding_B"}:
        return False
    rank = (one_parts["A"].shape or (1,))[0]
    if rank < 1 or config.scale(head, rank) != config.scale(embedding, rank):
        return False
    return _transposed(one_parts["A"], other_parts["embedding_B"]) and _transposed(
        one_parts["B"], other_parts["embedding_A"]
    )


def _same(one: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether two tensors have the same bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    step = _STEP_BYTES // one.dtype.itemsize
    for low in range(0, one.length, step):
        high = min(one.length, low + step)
        if not np.array_equal(_read(one, low, high), _read(other, low, high)):
            return False
    return True


def _transposed(one: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether a factor has the bits of another one, transposed."""
    if one.dtype != other.dtype or len(one.shape) != 2 or one.shape != other.shape[::-1]:
        return False
    kind = f"u{one.dtype.itemsize}"
    first = _read(one, 0, one.length).view(kind).reshape(one.shape)
    return np.array_equal(first, _read(other, 0, other.length).view(kind).reshape(other.shape).T)


def _read(info: TensorInfo, low: int, high: int) -> NDArray[Any]:
    info.source.populate(low, high)
    return info.source.read(low, high)

"""Adapters of models that store one matrix as both their embedding and their head.

Such a model stays tied only where an adapter makes the same change to both, as peft does with ``ensure_weight_tying``.
An adapter that makes the two differ is refused: it needs a model that stores both. (``merge_and_unload`` of peft adds
the changes of both to the one matrix, and says in a warning that this is not what was trained.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.io.adapters.config import AdapterConfig
from dovetail.io.adapters.names import AdapterTensors
from dovetail.io.adapters.renaming import WHOLE_MODEL
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import AdapterError
from dovetail.io.files.smallfile import read_at_most
from dovetail.io.files.strict_json import JsonDefectError, decode_json

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

_MAX_CONFIG_BYTES: Final = 16 * 2**20

UNTIE: Final = (
    "load the model in transformers with tie_word_embeddings=False, copy the embedding's weight into the head's, "
    "save the model, and apply the adapter to what was saved"
)
"""The advice about an adapter that makes the embedding and the head of a tied model differ."""


def settle_ties(
    label: str, checkpoint: Checkpoint, config: AdapterConfig, parts: AdapterTensors
) -> tuple[AdapterTensors, tuple[str, ...]]:
    """Leave out an adapter's changes of a head that the model stores as its embedding, if the embedding's are the same.

    Parameters
    ----------
    label
        The adapter, for error messages.
    checkpoint
        The model.
    config, parts
        The adapter's configuration and tensors.

    Returns
    -------
    tuple
        The tensors to apply, and what a person should know of them, one sentence each.

    Raises
    ------
    AdapterError
        The adapter makes the head and the embedding differ.

    """
    if any(_is_head(name.removesuffix(".weight")) for name in checkpoint.tensors):
        return parts, ()
    changed = {**parts.modules, **{name.removesuffix(".weight"): {} for name in parts.whole}}
    heads = [module for module in changed if _is_head(module)]
    embeddings = [module for module in changed if module.rpartition(".")[2] in _EMBEDDINGS]
    embedding = embeddings[0] if len(embeddings) == 1 else ""
    for head in heads:
        if not _changed_alike(config, parts, head, embedding):
            raise _differ(label, checkpoint, f"changes {head!r} otherwise than the embedding")
    if not heads and embedding and _is_tied(checkpoint, config):
        if f"{embedding}.weight" in parts.whole and any(embedding.endswith(each) for each in config.saved):
            raise _differ(label, checkpoint, f"replaces {embedding!r} and leaves the head as it was")
        if embedding in parts.modules and "tokens" not in parts.modules[embedding]:
            note = (
                f"{label} changes the embedding of {checkpoint.path}, which is the head as well: both change, as with "
                "merge_and_unload() of peft, although the head was left as it was in training"
            )
            return parts, (note,)
    modules = {module: each for module, each in parts.modules.items() if module not in heads}
    whole = {name: info for name, info in parts.whole.items() if name.removesuffix(".weight") not in heads}
    return replace(parts, modules=modules, whole=whole), ()


def _differ(label: str, checkpoint: Checkpoint, does: str) -> AdapterError:
    return AdapterError(
        f"{label} {does}, and {checkpoint.path} stores one matrix as both",
        "a model that stores its head beside its embedding",
        UNTIE,
    )


def _is_head(module: str) -> bool:
    """Tell whether a module is a head, by its name."""
    return ".".join(each for each in module.split(".") if each not in WHOLE_MODEL) in _HEADS


def _is_tied(checkpoint: Checkpoint, config: AdapterConfig) -> bool:
    """Tell whether a model without a stored head has one, which then is its embedding."""
    if config.task in _GENERATIVE:
        return True
    folder = checkpoint.side_folder
    try:
        model = {} if folder is None else decode_json(read_at_most(folder / "config.json", _MAX_CONFIG_BYTES))
    except (OSError, JsonDefectError):
        return False
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

"""Finding for each tensor of a base model its counterpart in a fine-tuned one, heads tied to embeddings included."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dovetail.engine.planning.extraction.modules import Kind, has_rows_of_tokens, is_head, kind_of, ties_head
from dovetail.engine.planning.extraction.options import ExtractionOptions
from dovetail.engine.planning.model_config import says_tied
from dovetail.engine.recipe.layers import parse_layer
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.errors import TensorMismatchError
from dovetail.io.formats.config import config_of

_UNTRAINED: Final = ("inv_freq", "position_ids", "masked_bias")
"""Last parts of the names of buffers that old checkpoints store and newer ones do not."""

_OF_PLACES: Final = re.compile(r"pos(?:ition)?|wpe|(?:^|[._])(?:token_)?types?[._]|segment", re.IGNORECASE)
"""Names of embeddings of positions, and of the parts of a text."""


@dataclass(frozen=True, slots=True)
class TensorPair:
    """A tensor in both models."""

    name: str
    """Its name in the base model."""
    kind: Kind
    """What its module is to peft."""
    tuned: TensorInfo
    """The fine-tuned model's."""
    base: TensorInfo | None
    """The base model's; None where its shape differs, so that it is kept whole in any case."""
    loaded: str
    """Its name in memory, which the adapter has."""
    packed: str | None = None
    """The module of experts of which peft packs the factors, this one's among them, so that all need one rank."""

    @property
    def rows(self) -> int:
        """Rows of the tensor as a matrix: its first dimension."""
        return self.tuned.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the tensor as a matrix: all other dimensions."""
        return self.tuned.length // max(1, self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.tuned.nbytes + (0 if self.base is None else self.base.nbytes)


@dataclass(frozen=True, slots=True)
class Counterparts:
    """What two models have in common."""

    tuned: Mapping[str, TensorInfo]
    """The fine-tuned model's counterpart by the base model's name. For a head that only the base model stores, it is
    the embedding that the fine-tuned model uses for one."""
    tied: str | None
    """The base model's embedding, if that is its head too."""
    copies: tuple[tuple[TensorInfo, TensorInfo], ...]
    """Stored heads of the fine-tuned model that must be copies of its embedding, as the base model ties the two: each
    with the embedding."""
    missing: tuple[str, ...]
    """Tensors that the fine-tuned model lacks."""


def pair_up(tuned: Checkpoint, base: Checkpoint, names: tuple[str, str], options: ExtractionOptions) -> Counterparts:
    """Find all counterparts.

    Parameters
    ----------
    tuned, base
        The two models.
    names
        What the user calls them.
    options
        Options, which say which tensors are compared.

    Raises
    ------
    TensorMismatchError
        The fine-tuned model has tensors, or shapes, that no adapter on the base model can bring.

    """
    tied = _is_tied(base)
    found = {name: tuned.tensors[name] for name in base.tensors if name in tuned.tensors}
    heads = {name for name in (*base.tensors, *tuned.tensors) if is_head(name)}
    embedding = _vocabulary(tuned)
    copies = []
    for head in sorted(heads):
        if tied:
            found.pop(head, None)
            if head in tuned.tensors and embedding is not None and options.wants(head):
                copies.append((tuned.tensors[head], tuned.tensors[embedding]))
        elif head not in tuned.tensors and embedding is not None and _is_tied(tuned):
            found[head] = tuned.tensors[embedding]
    ignored = heads if tied else set()
    extra = [name for name in tuned.tensors if name not in base.tensors and name not in ignored and options.wants(name)]
    _refuse_extra([name for name in extra if name.rpartition(".")[2] not in _UNTRAINED], names)
    wanted = {name: info for name, info in found.items() if options.wants(name)}
    for name, info in wanted.items():
        _check_shape(name, info, base.tensors[name], names)
    missing = tuple(
        name
        for name in base.tensors
        if name not in found and name not in ignored and name.rpartition(".")[2] not in _UNTRAINED
    )
    _refuse_missing_layers([name for name in missing if options.wants(name)], base, names)
    return Counterparts(wanted, _vocabulary(base) if tied else None, tuple(copies), missing)


def _refuse_missing_layers(missing: Sequence[str], base: Checkpoint, names: tuple[str, str]) -> None:
    """Refuse a fine-tuned model that lacks whole layers: with the adapter, the base model would have them still."""
    lacking = Counter((layer.stack, layer.number) for name in missing if (layer := parse_layer(name)))
    whole = Counter((layer.stack, layer.number) for name in base.tensors if (layer := parse_layer(name)))
    for (stack, number), count in lacking.items():
        if count == whole[stack, number]:
            raise TensorMismatchError(
                f"{names[0]} lacks layer {number} of {names[1]}",
                "a fine-tuned model with all layers of its base model",
                "give the base model that it was made from",
            )


def _is_tied(checkpoint: Checkpoint) -> bool:
    """Whether a model's head is its embedding: it says so, or has a head by its architecture and stores none."""
    config = config_of(checkpoint)
    said = says_tied(config)
    return ties_head(config, said) and (said is True or not any(map(is_head, checkpoint.tensors)))


def _vocabulary(checkpoint: Checkpoint) -> str | None:
    """Find the embedding of tokens: the embedding with most rows among those that are not of positions or types.

    Models of bytes, notes or amino acids have more positions than tokens.
    """
    rows = {
        name: (_OF_PLACES.search(name) is None, info.shape[0])
        for name, info in checkpoint.tensors.items()
        if kind_of(name, info.shape, None) is Kind.EMBEDDING
    }
    return max(rows, key=lambda name: rows[name], default=None)


def _check_shape(name: str, new: TensorInfo, old: TensorInfo, names: tuple[str, str]) -> None:
    if new.shape == old.shape:
        return
    if not has_rows_of_tokens(name, old.shape) or new.shape[1:] != old.shape[1:] or math.prod(new.shape) == 0:
        raise TensorMismatchError(
            f"tensor {name!r} of {names[0]} has shape {list(new.shape)}",
            f"{list(old.shape)}, as in {names[1]}",
            f"give the model that it was made from, or leave the tensor out with --exclude '{name}'",
        )


def _refuse_extra(extra: list[str], names: tuple[str, str]) -> None:
    if extra:
        raise TensorMismatchError(
            f"{names[0]} has {len(extra)} tensors that {names[1]} lacks, such as {extra[0]!r}",
            "the tensors of its base model alone",
            f"give the model that it was made from, or leave them out with --exclude '{extra[0]}'",
        )
